"""What the recipes for tasks of the Medical Segmentation Decathlon share."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from nnunet_ssl.conversion.cases import Case, Subset
from nnunet_ssl.conversion.paper_splits import Split, fold_with_last
from nnunet_ssl.conversion.recipes import Recipe

SOURCE = "VerSemi (maxwell0027/VerSemi, datalist); UniSeMi"
NOTE = "The validation, which nnU-Net needs, is the last cases of the papers' unlabelled training cases."


def msd_recipe(task: str, what: str, channel: str, labels: Sequence[str]) -> Recipe:
    """Recipe of a task whose scans have one channel.

    Args:
        task: name of the download, such as ``Task09_Spleen``.
        what: organ and modality, for the list.
        channel: ``CT`` or ``MRI``.
        labels: names of the labels 1, 2, ...
    """
    prefix = task.split("_")[1].lower()
    return Recipe(
        title=f"{what}, Medical Segmentation Decathlon {task}",
        dataset=task.split("_")[1],
        channels=(channel,),
        labels={"background": 0, **{name: value for value, name in enumerate(labels, start=1)}},
        layouts={"decathlon": (f"imagesTr/{prefix}_*.nii.gz", f"labelsTr/{prefix}_*.nii.gz")},
        licence="CC-BY-SA 4.0",
        reference="http://medicaldecathlon.com",
    )


def msd_cases(folder: Path, test: Collection[int] = ()) -> Iterator[Case]:
    """Every scan of a task; the labelled ones with a number in ``test`` are test cases."""
    for image in _scans(folder / "imagesTr"):
        name = image.name.removesuffix(".nii.gz")
        subset: Subset = "test" if number(name) in test else "train"
        yield Case(name, [image], folder / "labelsTr" / image.name, subset)
    for image in _scans(folder / "imagesTs"):
        yield Case(image.name.removesuffix(".nii.gz"), [image], None, "test")


def versemi_splits(cases: Sequence[Case], numbers: Sequence[int], val: int) -> list[Split]:
    """VerSemi's splits.

    Args:
        cases: of the recipe.
        numbers: of the labelled cases of 20 %; their first half is labelled for 10 %.
        val: size of the validation.
    """
    training = {number(c.identifier): c.identifier for c in cases if c.subset == "train"}
    ordered = [training[n] for n in sorted(training)]
    names = [training.get(n, f"missing_{n}") for n in numbers]
    return [
        Split(
            f"versemi-{n}", SOURCE, [fold_with_last(names[:n], ordered, val)], chosen_on_test=True, note=NOTE
        )
        for n in (len(numbers) // 2, len(numbers))
    ]


def number(name: str) -> int:
    """The number at the end of a case's name: ``spleen_10`` comes after ``spleen_9``."""
    found = re.search(r"(\d+)$", name)
    return int(found[1]) if found else 0


def _scans(folder: Path) -> list[Path]:
    """Files in order of their number, without the ``._`` files that macOS left in the archives."""
    return sorted(
        (p for p in folder.glob("[!.]*.nii.gz")), key=lambda p: number(p.name.removesuffix(".nii.gz"))
    )
