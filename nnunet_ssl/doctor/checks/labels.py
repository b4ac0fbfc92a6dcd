"""Label maps: values, blank masks, classes that nobody labelled. A case is judged on its own labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nnunet_ssl.doctor.facts import CaseFacts, LabelFacts
from nnunet_ssl.doctor.findings import Finding, Severity, of_cases
from nnunet_ssl.doctor.study import Fold, Study, in_folds

POSING_SHARE = 0.5  # more blank masks than this among the labelled are taken for scans that nobody labelled


def check_values(study: Study) -> list[Finding]:
    """Values that dataset.json does not know, broken numbers, and values of another task."""
    known = _known_values(study)
    unknown, foreign = [], []
    for case in study.cases:
        if case.label is None:
            continue
        strange = [value for value in sorted(case.label.counts) if value not in known]
        if strange or case.label.nonfinite:
            unknown.append((case, _describe(case.label, strange)))
        task = study.table.known_task_of(case.case)
        if task >= 0:
            others = known - study.own_values(task) - {0, study.ignore_value}
            theirs = [value for value in sorted(case.label.counts) if value in others]
            foreign += [(case, _describe(case.label, theirs))] if theirs else []
    return [
        *of_cases(
            Severity.ERROR,
            "label-values",
            "{n} label(s) hold values that dataset.json does not know.",
            "Correct the label files, or add the values to 'labels'. A 255 is often a picture of a mask.",
            unknown,
        ),
        *of_cases(
            Severity.WARNING,
            "foreign-labels",
            "{n} label(s) hold values of another task: they are neither learnt nor judged there.",
            "Correct the prefix of the case or of the task in dataset.json, or remove the values.",
            foreign,
        ),
    ]


def check_tasks(study: Study) -> list[Finding]:
    """Every labelled case belongs to a task."""
    hits = [(case, "") for case in study.labeled_cases if study.table.known_task_of(case.case) < 0]
    prefixes = ", ".join(task.prefix for task in study.table.tasks)
    todo = f"Let their identifiers start with one of {prefixes}, or move them to imagesUn."
    return of_cases(Severity.ERROR, "no-task", "{n} labelled case(s) belong to no task.", todo, hits)


def check_blank(study: Study) -> list[Finding]:
    """Masks without foreground: real ones say "nothing here", those of unlabelled scans say so wrongly."""
    findings = []
    for task, name in enumerate(task.name for task in study.table.tasks):
        judged = [case for case in _of_task(study, study.labeled_cases, task) if case.label is not None]
        blank = [(case, "") for case in judged if _is_blank(case.label, study, task)]
        of_task = f" of task '{name}'" if len(study.table) > 1 else ""
        share = len(blank) / max(1, len(judged))
        if share > POSING_SHARE:
            found = f"{{n}} of {len(judged)} labels{of_task} are blank: masks of scans that nobody labelled?"
            todo = (
                "Training would learn from them that nothing is there. Move unlabelled scans to imagesUn and "
                "delete their blank masks. If the organ is truly absent: --accept blank-label."
            )
            findings += of_cases(Severity.ERROR, "blank-label", found, todo, blank)
        else:
            found = f"{{n}} of {len(judged)} labels{of_task} are blank."
            todo = "Fine if nothing is to be seen there. Scans that nobody labelled belong into imagesUn."
            findings += of_cases(Severity.WARNING, "blank-label", found, todo, blank)
    return findings


def check_sides(study: Study) -> list[Finding]:
    """Labels of both sides, which nnU-Net's mirroring makes look alike."""
    names = {prompt.label.lower(): prompt.label for prompt in study.table.prompts}
    pairs = [
        f"{name} and {names[other]}"
        for lower, name in names.items()
        if "left" in lower and (other := lower.replace("left", "right")) in names
    ]
    if not pairs:
        return []
    found = f"Labels tell left from right ({', '.join(pairs)}), but nnU-Net mirrors all axes of a patch."
    todo = "Leave out the left-right axis, in axial scans the last: configure --set mirror_axes=0,1 (2d: 0,)."
    return [Finding(Severity.NOTE, "sides", found, todo)]


def check_classes(study: Study) -> list[Finding]:
    """Tasks and classes without any labelled training case in a fold, and classes that validation lacks."""
    return [
        *_task_findings(study),
        *_class_findings(
            study,
            {fold.name: fold.train for fold in study.folds},
            Severity.ERROR,
            "absent-class",
            "in no labelled training case",
            "It cannot be learnt. Label a case that shows it, or choose others with nnUNetv2_ssl split.",
        ),
        *_class_findings(
            study,
            {fold.name: fold.val for fold in study.folds if fold.val},
            Severity.NOTE,
            "absent-class",
            "in no validation case",
            "Its validation score is undefined. A larger --val or fewer --folds helps.",
        ),
    ]


def _task_findings(study: Study) -> list[Finding]:
    findings = []
    for task, name in enumerate(task.name for task in study.table.tasks):
        without = [fold.name for fold in study.folds if fold.train and not _members(study, fold, task)]
        if without:
            found = f"Task '{name}' has no labelled training case{in_folds(without)}."
            todo = "Label a case, or choose others with nnUNetv2_ssl split, which gives each task its share."
            findings.append(Finding(Severity.ERROR, "absent-task", found, todo))
    return findings


def _members(study: Study, fold: Fold, task: int) -> list[str]:
    return [case for case in fold.train if study.table.known_task_of(case) == task]


def _class_findings(
    study: Study,
    groups: Mapping[str, frozenset[str]],
    severity: Severity,
    check: str,
    where: str,
    todo: str,
) -> list[Finding]:
    """One finding per class that occurs in none of the cases of some group; ``groups`` by fold name."""
    findings = []
    for prompt in study.table.prompts:
        absent = []
        for fold, members in groups.items():
            cases = [c for c in study.labeled_cases if c.case in members]
            labels = [c.label for c in _of_task(study, cases, prompt.task) if c.label is not None]
            if labels and not any(label.counts.keys() & set(prompt.values) for label in labels):
                absent.append(fold)
        if absent:
            found = f"Class '{prompt.label}' is {where}{in_folds(absent)}."
            findings.append(Finding(severity, check, found, todo))
    return findings


def _of_task(study: Study, cases: Iterable[CaseFacts], task: int) -> list[CaseFacts]:
    return [case for case in cases if study.table.known_task_of(case.case) == task]


def _is_blank(label: LabelFacts | None, study: Study, task: int) -> bool:
    """Whether there is nothing of the task; a label of unknown values is wrong, not blank."""
    return (
        label is not None
        and label.nonfinite == 0
        and not (label.counts.keys() & study.own_values(task) or label.counts.keys() - _known_values(study))
    )


def _known_values(study: Study) -> set[int]:
    known = {0} | {value for task in range(len(study.table)) for value in study.own_values(task)}
    return known if study.ignore_value is None else known | {study.ignore_value}


def _describe(label: LabelFacts, values: list[float]) -> str:
    parts = [f"{value:g} ({label.counts[value]} voxels)" for value in values[:4]]
    parts += [f"and {len(values) - 4} more values"] if len(values) > 4 else []
    parts += [f"NaN or infinite ({label.nonfinite} voxels)"] if label.nonfinite else []
    return ", ".join(parts)
