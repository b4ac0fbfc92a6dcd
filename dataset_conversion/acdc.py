r"""ACDC: ventricles and myocardium in cine MR, at end diastole and end systole.

Source: Automated Cardiac Diagnosis Challenge, https://www.creatis.insa-lyon.fr/Challenge/acdc (Bernard et
    al., IEEE TMI 37, 2018); register there. Licence: that of the challenge (research only).
Layout::

    database/
      training/patient001/{Info.cfg, patient001_4d.nii.gz, patient001_frame01.nii.gz, ..._frame01_gt.nii.gz}
      testing/patient101/...      the same, 50 patients; with labels since the challenge has ended

Labels: 1 RV, 2 MLV (myocardium of the left ventricle), 3 LVC (its cavity), named as in nnU-Net's
    Dataset027_ACDC.
What is done: the two annotated frames of each patient are linked; nnU-Net's converter would copy the same
    files, without the labels of the test patients (with nnunetv2 2.8.1 it stops in make_out_dirs). Its split
    is written along.
Split: nnU-Net's own five folds by patient (nnunetv2.dataset_conversion.Dataset027_ACDC.create_ACDC_split).
    None of the five papers uses the set. For fewer labels: nnUNetv2_ssl split -d ID --labeled 14
    --group-regex '(patient\d+)'.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from nnunet_ssl.conversion.cases import Case, Subset, if_there
from nnunet_ssl.conversion.paper_splits import Split
from nnunet_ssl.conversion.recipes import Download, Recipe

RECIPE = Recipe(
    title="Ventricles and myocardium in cine MR, ACDC",
    dataset="ACDC",
    channels=("cineMRI",),
    labels={"background": 0, "RV": 1, "MLV": 2, "LVC": 3},
    layouts={"creatis": ("training/patient*/patient*_frame[0-9][0-9]_gt.nii.gz",)},
    licence="that of the challenge (research only)",
    reference="https://www.creatis.insa-lyon.fr/Challenge/acdc",
)
PARTS: dict[str, Subset] = {"training": "train", "testing": "test"}


def find_cases(download: Download) -> Iterator[Case]:
    """The two annotated frames of every patient."""
    for part, subset in PARTS.items():
        for image in sorted(download.folder.glob(f"{part}/patient*/patient*_frame[0-9][0-9].nii.gz")):
            name = image.name.removesuffix(".nii.gz")
            label = image.with_name(f"{name}_gt.nii.gz")
            mine = label if subset == "train" else if_there(label)
            yield Case(name, [image], mine, subset, group=name.split("_")[0])


def splits(download: Download, cases: Sequence[Case]) -> list[Split]:
    """nnU-Net's five folds."""
    from nnunetv2.dataset_conversion.Dataset027_ACDC import create_ACDC_split

    with TemporaryDirectory() as folder:  # it reads the names of a folder
        for case in cases:
            if case.subset == "train":
                (Path(folder) / f"{case.identifier}.nii.gz").touch()
        folds = [
            {"train": list(map(str, f["train"])), "val": list(map(str, f["val"])), "unlabeled": []}
            for f in create_ACDC_split(folder)
        ]
    return [Split("nnunet-5fold", "nnU-Net, Dataset027_ACDC.create_ACDC_split: all cases labelled", folds)]
