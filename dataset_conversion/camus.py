"""CAMUS: left ventricle, myocardium and left atrium in echocardiography.

Source: https://www.creatis.insa-lyon.fr/Challenge/camus, files at
    https://humanheart-project.creatis.insa-lyon.fr (Leclerc et al., IEEE TMI 38, 2019). Licence: CC BY-NC-SA
    4.0 (not verified).
Layout, two releases, found by themselves::

    CAMUS_public/
      database_nifti/patient0001/patient0001_2CH_ED.nii.gz, patient0001_2CH_ED_gt.nii.gz, ..._4CH_ES...
      database_split/subgroup_training.txt (400 patients), ..._validation.txt (50), ..._testing.txt (50)

    training/patient0001/patient0001_2CH_ED.mhd, patient0001_2CH_ED_gt.mhd, ...                450 patients
    testing/patient0001/...                                                                     50, no labels

Labels: 1 left_ventricle (cavity), 2 myocardium, 3 left_atrium.
What is done: the frames at end diastole and end systole become gray PNG, as ITK reads them (rows down the
    beam). The annotated sequences in between (half_sequence) are not taken. PNG has no place for the pixel
    size.
Split: patients of subgroup_testing.txt are test cases. ProPL's proportions for the rest (see the file); ProPL
    takes left ventricle, left atrium and myocardium as three tasks and draws its own test quarter.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, Subset
from nnunet_ssl.conversion.images import read_volume
from nnunet_ssl.conversion.recipes import Download
from nnunet_ssl.conversion.ultrasound import propl_splits, to_bytes, ultrasound_recipe

RECIPE = ultrasound_recipe(
    title="Left ventricle, myocardium and left atrium in echocardiography, CAMUS",
    dataset="CAMUS",
    labels=("left_ventricle", "myocardium", "left_atrium"),
    layouts={
        "nifti": ("database_nifti/patient*/patient*_2CH_ED.nii.gz", "database_split/subgroup_testing.txt"),
        "mhd": ("training/patient*/patient*_2CH_ED.mhd",),
    },
    licence="CC BY-NC-SA 4.0",
    reference="https://www.creatis.insa-lyon.fr/Challenge/camus",
)
splits = propl_splits


def find_cases(download: Download) -> Iterator[Case]:
    """Both annotated frames of both views of every patient."""
    if download.layout == "nifti":
        listed = (download.folder / "database_split" / "subgroup_testing.txt").read_text().split()
        yield from _patients(download.folder / "database_nifti", ".nii.gz", set(listed))
        return
    yield from _patients(download.folder / "training", ".mhd", set())
    testing = download.folder / "testing"
    yield from _patients(testing, ".mhd", {p.name for p in testing.glob("patient*")}, "test_")


def read_slice(path: Path) -> sitk.Image:
    """A picture that is stored as a volume, as bytes."""
    return to_bytes(_flat(read_volume(path)))


def read_label(path: Path) -> sitk.Image:
    """A label map that is stored as a volume."""
    return sitk.Cast(_flat(read_volume(path)), sitk.sitkUInt8)


def _flat(image: sitk.Image) -> sitk.Image:
    flat = sitk.GetArrayFromImage(image)
    return sitk.GetImageFromArray(flat[0] if flat.ndim == 3 else flat)  # PNG has no geometry


def _patients(folder: Path, ending: str, test: set[str], prefix: str = "") -> Iterator[Case]:
    for patient in sorted(folder.glob("patient*")):
        for name in (f"{patient.name}_{view}_{phase}" for view in ("2CH", "4CH") for phase in ("ED", "ES")):
            image, mask = patient / f"{name}{ending}", patient / f"{name}_gt{ending}"
            if not image.is_file():
                continue
            label = partial(read_label, mask) if mask.is_file() else None
            subset: Subset = "test" if patient.name in test else "train"
            group = f"{prefix}{patient.name}"
            yield Case(f"{prefix}{name}", [partial(read_slice, image)], label, subset, group)
