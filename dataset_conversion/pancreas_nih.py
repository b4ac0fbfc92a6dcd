"""NIH Pancreas-CT: the pancreas in portal-venous contrast CT.

Source: The Cancer Imaging Archive, https://doi.org/10.7937/K9/TCIA.2016.tNB1kqBU (Roth et al., MICCAI 2015).
    Licence: CC BY 3.0.
Layout: two downloads, unpacked into one folder; the names of the folders between do not matter::

    Pancreas-CT/PANCREAS_0001/<study>/<series>/1-001.dcm ...                  80 patients (82 before 2020)
    TCIA_pancreas_labels-02-05-2017/label0001.nii.gz ...                      one label map per patient

Labels: 1 pancreas.
What is done: each series is read in Hounsfield units, with its geometry, and written as .nii.gz. The headers
    of the label files do not fit the DICOM series: ITK would lay the label upside down. Their voxels are in
    the order of the DICOM pixels: first axis column, second axis row, third axis slice by ascending
    InstanceNumber. So the label is laid on the series by index, and its header is ignored. To be safe, nine
    tenths of the labelled voxels must then have the density of soft tissue (-150 to 300 HU), else the case is
    refused. Patients 25 and 70 are left out: they are the scan of patient 2 once more, cropped otherwise, and
    TCIA took them back. (The published lists leave them out as well; the reason is from memory, not
    verified.)
Variants: ``papers`` (default): numbers from 64 on are test cases; ``all``: all are training cases.
Split: VerSemi and BCP train on numbers 1 to 63 and test on 64 to 82 (without 25 and 70: 62 and 18; the papers
    say 62 and 20). Labelled are the first 6 (10 %) or 12 (20 %) (maxwell0027/VerSemi, datalist/). The last 6
    of the 62 become the validation that nnU-Net needs. PICK reports a 4-fold cross-validation whose draw is
    not published.
Verified: that three public conversions agree on the order of voxels (twni2016/OrganSegRSTN_PyTorch, the h5
    conversions of BCP and of CoraNet's followers). Not verified: on the files themselves.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.dicom import read_series, slices_of
from nnunet_ssl.conversion.folder_scan import only_series
from nnunet_ssl.conversion.images import read_volume
from nnunet_ssl.conversion.paper_splits import Split, fold_with_last
from nnunet_ssl.conversion.recipes import Download, Recipe
from nnunet_ssl.errors import DataError

RECIPE = Recipe(
    title="Pancreas in CT, NIH Pancreas-CT (DICOM series, NIfTI labels laid right)",
    dataset="PancreasNIH",
    channels=("CT",),
    labels={"background": 0, "pancreas": 1},
    layouts={"tcia": ("**/PANCREAS_[0-9][0-9][0-9][0-9]", "**/label[0-9][0-9][0-9][0-9].nii.gz")},
    licence="CC BY 3.0",
    reference="https://doi.org/10.7937/K9/TCIA.2016.tNB1kqBU",
)
VARIANTS = {"papers": RECIPE, "all": RECIPE}

WITHDRAWN = (25, 70)
FIRST_TEST = 64
SOURCE = "VerSemi (maxwell0027/VerSemi, datalist); BCP (DeepMed-Lab-ECNU/BCP, data/Pancreas); DBiSL"
NOTE = "The papers have no validation set: val is the last 6 of the 62, taken from the unlabelled cases."


def find_cases(download: Download) -> Iterator[Case]:
    """Every patient that has a label map."""
    labels = {_number(path): path for path in download.folder.glob("**/label[0-9][0-9][0-9][0-9].nii.gz")}
    patients = sorted(download.folder.glob("**/PANCREAS_[0-9][0-9][0-9][0-9]"), key=_number)
    for patient in patients:
        number = _number(patient)
        if number in WITHDRAWN:
            continue
        if number not in labels:
            raise DataError(
                f"{patient.name} has no label{number:04d}.nii.gz. Unpack the archive of the labels into "
                f"{download.folder}, or remove the patient."
            )
        test = download.variant == "papers" and number >= FIRST_TEST
        label = partial(read_label, patient, labels[number])
        yield Case(
            f"pancreas_{number:04d}", [partial(read_scan, patient)], label, "test" if test else "train"
        )


def splits(download: Download, cases: Sequence[Case]) -> Iterator[Split]:
    """The papers' 6 and 12 labelled cases."""
    if download.variant != "papers":
        return
    ordered = sorted(case.identifier for case in cases if case.subset == "train")
    for labeled in (6, 12):
        names = [f"pancreas_{number:04d}" for number in range(1, labeled + 1)]
        fold = fold_with_last(names, ordered, val=6)
        yield Split(f"versemi-{labeled}", SOURCE, [fold], chosen_on_test=True, note=NOTE)


def read_scan(patient: Path) -> sitk.Image:
    """The CT of a patient."""
    return read_series(only_series(patient))


def read_label(patient: Path, label: Path) -> sitk.Image:
    """The label map of a patient on the voxels of the CT."""
    series = only_series(patient)
    scan = read_series(series)
    array = sitk.GetArrayFromImage(read_volume(label))  # slices, rows, columns
    expected = scan.GetSize()[::-1]
    if array.shape != expected:
        raise DataError(
            f"{label} has the shape {array.shape}, but the series of {patient.name} has {expected}."
        )
    instances = [int(one.get("InstanceNumber") or 0) for one in slices_of(series)]
    if len(set(instances)) != len(instances):
        raise DataError(
            f"{series.folder}: several slices bear one InstanceNumber. Download the series again."
        )
    array = array[np.argsort(np.argsort(instances))]  # the label's slices, in the order of the volume's
    _check_tissue(sitk.GetArrayViewFromImage(scan), array, label)
    laid = sitk.GetImageFromArray((array > 0).astype(np.uint8))
    laid.CopyInformation(scan)
    return laid


def _check_tissue(scan: np.ndarray, label: np.ndarray, file: Path) -> None:
    density = scan[label > 0]
    soft = float(np.mean((density >= -150) & (density <= 300))) if density.size else 0.0
    if soft < 0.9:
        raise DataError(
            f"{file}: only {soft:.0%} of the labelled voxels have the density of soft tissue: the label does "
            "not lie on the organ. Check that series and label are of the same patient and unchanged."
        )


def _number(path: Path) -> int:
    found = re.search(r"(\d{4})", path.name)
    return int(found[1]) if found else 0
