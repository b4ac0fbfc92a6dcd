"""M&Ms: ventricles and myocardium in cine MR of four vendors.

Source: https://www.ub.edu/mnms (Campello et al., IEEE TMI 40, 2021). Licence: CC BY-NC-SA 4.0 (not verified).
Layout::

    OpenDataset/
      211230_M&Ms_Dataset_information_diagnosis_opendataset.csv   (External code, Vendor, ED, ES, ...)
      Training/Labeled/A0S9V9/{A0S9V9_sa.nii.gz, A0S9V9_sa_gt.nii.gz}      150 subjects, vendors A and B
      Training/Unlabeled/...                                               25 subjects, vendor C
      Validation/... (34)      Testing/... (136)

Labels: 1 LVBP, 2 LVM, 3 RV, named as in nnU-Net's Dataset114_MNMs.
What is done: the frames at end diastole and end systole are cut out of the four-dimensional files; the table
    is read by nnU-Net's read_csv (its own command stops in make_out_dirs with nnunetv2 2.8.1). Headers whose
    axes are not orthogonal, for which nnU-Net's converter leaves out the validation part, are straightened.
    Case ids begin with the vendor: ``A_A0S9V9_frame00``.
Variants: ``labeled`` (default): the 320 labelled subjects (A 95, B 125, C 50, D 50), all in imagesTr;
    ``all``: the 25 unlabelled subjects of vendor C too, in imagesUn. Do not use ``all`` to leave out vendor
    C: every fold sees imagesUn.
Split: leave one domain out, as PICK and Wang and Li: in fold 0 vendor A is held out, in folds 1, 2, 3 vendors
    B, C, D; 2 % or 5 % of the subjects of each other vendor are labelled. Which ones the papers drew is not
    published in full, so they are drawn here, by a hash. ``val`` is the held-out domain, which is the papers'
    *test* set: take the final checkpoint, never the best.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_ssl.conversion.cases import Case, Subset
from nnunet_ssl.conversion.images import read_frame
from nnunet_ssl.conversion.paper_splits import Split, drawn, fold
from nnunet_ssl.conversion.recipes import Download, Recipe
from nnunet_ssl.errors import DataError

RECIPE = Recipe(
    title="Ventricles and myocardium in cine MR of four vendors, M&Ms",
    dataset="MNMs",
    channels=("cineMRI",),
    labels={"background": 0, "LVBP": 1, "LVM": 2, "RV": 3},
    layouts={"opendataset": ("*.csv", "Training/Labeled/*/*_sa.nii.gz")},
    licence="CC BY-NC-SA 4.0",
    reference="https://www.ub.edu/mnms",
)
VARIANTS = {"labeled": RECIPE, "all": RECIPE}
VENDORS = "ABCD"
SOURCE = "PICK and Wang and Li (A&D), leave one domain out"
NOTE = (
    "val is the held-out vendor, the papers' test set: take the final checkpoint. The labelled subjects are "
    "drawn here; the papers' draw is not published in full."
)


def find_cases(download: Download) -> Iterator[Case]:
    """Two frames of every subject."""
    table = _table(download.folder)
    for part in ("Training/Labeled", "Validation", "Testing"):
        for subject in sorted(download.folder.glob(f"{part}/*")):
            if subject.is_dir():
                yield from _frames(subject, table, "train")
    if download.variant == "all":
        for subject in sorted(download.folder.glob("Training/Unlabeled/*")):
            if subject.is_dir():
                yield from _frames(subject, table, "unlabeled")


def splits(download: Download, cases: Sequence[Case]) -> Iterator[Split]:
    """Each vendor held out once, with 2 % or 5 % of the other subjects labelled."""
    for percent in (2, 5):
        folds = []
        for vendor in VENDORS:
            others = [c for c in cases if c.subset == "train" and not c.identifier.startswith(vendor)]
            held_out = [
                c.identifier for c in cases if c.subset == "train" and c.identifier.startswith(vendor)
            ]
            by_vendor = [
                [c for c in others if c.identifier[0] == other] for other in VENDORS if other != vendor
            ]
            labeled = [name for part in by_vendor if part for name in drawn(part, percent / 100, "labeled")]
            folds.append(fold(labeled, held_out, [c.identifier for c in others]))
        yield Split(f"leave-one-vendor-out-{percent}percent", SOURCE, folds, note=NOTE)


def _table(folder: Path) -> dict[str, dict[str, Any]]:
    from nnunetv2.dataset_conversion.Dataset114_MNMs import read_csv

    file = sorted(folder.glob("*.csv"))[0]
    try:
        return dict(read_csv(str(file)))
    except ValueError as error:  # a column is missing
        raise DataError(f"{file} is not the table of M&Ms: {error}.") from error


def _frames(subject: Path, table: dict[str, dict[str, Any]], subset: Subset) -> Iterator[Case]:
    if subject.name not in table:
        raise DataError(f"Subject {subject.name} is not in the table of {subject.parents[1]}.")
    row = table[subject.name]
    image, label = (subject / f"{subject.name}_sa{end}.nii.gz" for end in ("", "_gt"))
    for frame in sorted({row["ed"], row["es"]}):
        name = f"{row['vendor']}_{subject.name}_frame{frame:02d}"
        target = partial(read_frame, label, frame) if subset == "train" else None
        yield Case(name, [partial(read_frame, image, frame)], target, subset, group=subject.name)
