"""Files that cannot be read, and dataset.json itself."""

from __future__ import annotations

from itertools import chain
from typing import Any

from nnunet_ssl.doctor.facts import IMAGES_TR
from nnunet_ssl.doctor.findings import Finding, Severity, of_cases
from nnunet_ssl.doctor.study import Study


def check_readable(study: Study) -> list[Finding]:
    """Every file that its reader refused, with the reader's reason."""
    hits = [
        (case, "; ".join(f"{file}: {why}" for file, why in case.unreadable))
        for case in study.cases
        if case.unreadable
    ]
    todo = "Copy or convert them again, or remove the cases."
    return of_cases(Severity.ERROR, "unreadable", "{n} case(s) have files that cannot be read.", todo, hits)


def check_dataset_json(study: Study) -> list[Finding]:
    """What nnU-Net demands of dataset.json beyond what is needed to read it at all."""
    content = study.dataset_json
    found = [*_missing_keys(content), *_label_numbers(content)]
    if "dataset" not in content and "numTraining" in content:
        count = len(study.in_folder(IMAGES_TR))
        if content["numTraining"] != count:
            text = f"dataset.json counts {content['numTraining']} training cases, imagesTr holds {count}."
            todo = "Correct 'numTraining', or look for the missing cases."
            found.append(Finding(Severity.WARNING, "dataset-json", text, todo))
    if not study.in_folder(IMAGES_TR):
        text = "There is no labelled case: imagesTr holds no file that nnU-Net takes for a scan."
        todo = f"Put images (CASE_0000{content['file_ending']}) into imagesTr, labels into labelsTr."
        found.append(Finding(Severity.ERROR, "no-cases", text, todo))
    return found


def _missing_keys(content: Any) -> list[Finding]:
    missing = [key for key in ("channel_names", "numTraining") if key not in content]
    if _has_regions(content) and "regions_class_order" not in content:
        missing.append("regions_class_order")
    if not missing:
        return []
    text = f"dataset.json lacks {', '.join(missing)}, which nnU-Net demands."
    return [Finding(Severity.ERROR, "dataset-json", text, "Add it; nnU-Net's documentation has an example.")]


def _has_regions(content: Any) -> bool:
    """Whether labels of dataset.json are regions: lists of values."""
    return any(isinstance(value, (list, tuple)) and len(value) > 1 for value in content["labels"].values())


def _label_numbers(content: Any) -> list[Finding]:
    """NnU-Net's label manager wants 0, 1, 2, ... without gaps, background first and the ignore label last."""
    labels = content["labels"]
    lists = [value if isinstance(value, (list, tuple)) else [value] for value in labels.values()]
    values = sorted({int(value) for value in chain.from_iterable(lists)})
    problems = []
    if labels.get("background") != 0:
        problems.append("there is no 'background': 0")
    if values != list(range(len(values))):
        problems.append(f"the values {', '.join(map(str, values))} have a gap or do not start at 0")
    if "ignore" in labels and labels["ignore"] != values[-1]:
        problems.append("the ignore label is not the highest value")
    if not problems:
        return []
    text = f"The labels in dataset.json are not as nnU-Net wants them: {'; '.join(problems)}."
    todo = "Renumber the labels (0, 1, 2, ...; ignore last), in the label files too."
    return [Finding(Severity.ERROR, "dataset-json", text, todo)]
