"""Which files there are, by name alone: cases, and names that nnU-Net would misread or overlook."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.dataset_json import training_cases
from nnunet_ssl.data.layout import list_images
from nnunet_ssl.doctor.facts import IMAGES_TR, IMAGES_TS, IMAGES_UN
from nnunet_ssl.doctor.findings import Finding, Severity

LABELS = {IMAGES_TR: "labelsTr", IMAGES_TS: "labelsTs"}
# Endings that look like a scan: such a file was meant to be used. Others (README.txt) are left alone.
_SCAN_ENDINGS = (
    ".nii.gz .nii .nrrd .mha .mhd .gipl .png .bmp .jpg .jpeg .tif .tiff .dcm .h5 .npy .npz .img .hdr"
).split()
_RENAME = "Rename or convert the files."


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case: channels in order, and the label file if the folder has labels."""

    folder: str
    case: str
    images: tuple[Path, ...]
    label: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case."""
        return self.images if self.label is None else (*self.images, self.label)


def list_cases(dataset: Path, dataset_json: Mapping[str, Any]) -> list[CaseFiles]:
    """The cases of imagesTr (with labels), imagesUn and imagesTs (labels where there are some).

    A link whose file is gone counts as a label: that it is broken is told when it is read.
    """
    ending = dataset_json["file_ending"]
    cases = [
        CaseFiles(IMAGES_TR, case, tuple(images), label if os.path.lexists(label) else None)
        for case, (images, label) in sorted(training_cases(dataset, dataset_json).items())
    ]
    for folder in (IMAGES_UN, IMAGES_TS):
        for case, images in list_images(dataset / folder, ending).items():
            label = dataset / LABELS[folder] / f"{case}{ending}" if folder in LABELS else None
            there = label is not None and os.path.lexists(label)
            cases.append(CaseFiles(folder, case, tuple(images), label if there else None))
    return cases


def check_names(dataset: Path, dataset_json: Mapping[str, Any], cases: Iterable[CaseFiles]) -> list[Finding]:
    """File names that are wrong: ending, channel number, missing channels, files without a partner.

    Args:
        dataset: folder of the raw dataset.
        dataset_json: its description.
        cases: what ``list_cases`` made of it.
    """
    cases, ending = list(cases), dataset_json["file_ending"]
    listed = "dataset" in dataset_json  # dataset.json names the training files, wherever they lie
    folders = (IMAGES_UN, IMAGES_TS) if listed else (IMAGES_TR, IMAGES_UN, IMAGES_TS)
    findings = []
    for folder in folders:
        findings += _check_folder(dataset / folder, ending, has_channels=True)
    for folder in () if listed else ("labelsTr",):
        findings += _check_folder(dataset / folder, ending, has_channels=False)
        findings += _check_orphans(dataset / folder, ending, cases)
    return findings + _check_channels(cases, ending) + _check_partners(cases)


def _check_folder(folder: Path, ending: str, has_channels: bool) -> list[Finding]:
    overlooked, misread = [], []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith("."):
            continue
        if not path.name.endswith(ending):
            overlooked += [path.name] if path.name.lower().endswith(tuple(_SCAN_ENDINGS)) else []
        elif has_channels and not re.fullmatch(r".+_\d{4}", path.name[: -len(ending)]):
            misread.append(path.name)
    findings = []
    if overlooked:
        found = f"{len(overlooked)} file(s) of {folder.name} do not end in {ending}: nnU-Net overlooks them."
        todo = f"{_RENAME} dataset.json says '{ending}'."
        findings.append(Finding(Severity.WARNING, "file-names", found, todo, tuple(overlooked)))
    if misread:
        found = f"{len(misread)} file(s) of {folder.name} bear no channel number of four digits."
        todo = f"Name them CASE_0000{ending}, CASE_0001{ending}, ..."
        findings.append(Finding(Severity.ERROR, "file-names", found, todo, tuple(misread)))
    return findings


def _check_channels(cases: Iterable[CaseFiles], ending: str) -> list[Finding]:
    """Channel numbers must be 0, 1, ...; whether they are enough is seen when they are read (colour)."""
    wrong, details = [], []
    for case in cases:
        numbers = [re.fullmatch(r".+_(\d{4})", path.name[: -len(ending)]) for path in case.images]
        if any(n is None for n in numbers):
            continue  # files that dataset.json lists may be named freely
        found = [int(n[1]) for n in numbers if n is not None]
        if found != list(range(len(found))):
            wrong.append(f"{case.folder}/{case.case}")
            details.append("has " + ", ".join(f"_{n:04d}" for n in found))
    if not wrong:
        return []
    text = f"{len(wrong)} case(s) lack a channel: numbers start at _0000 and have no gap."
    todo = "Add the missing files, or remove the case."
    return [Finding(Severity.ERROR, "missing-channel", text, todo, tuple(wrong), tuple(details))]


def _check_orphans(folder: Path, ending: str, cases: Iterable[CaseFiles]) -> list[Finding]:
    known = {case.case for case in cases if case.folder == IMAGES_TR}
    files = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
    orphans = [path.name for path in files if path.name[: -len(ending)] not in known]
    if not orphans:
        return []
    found = f"{len(orphans)} label file(s) have no image in imagesTr: they are never used."
    todo = "Give image and label the same identifier: imagesTr/CASE_0000 and labelsTr/CASE."
    return [Finding(Severity.WARNING, "orphan-label", found, todo, tuple(orphans))]


def _check_partners(cases: Iterable[CaseFiles]) -> list[Finding]:
    missing = tuple(case.case for case in cases if case.folder == IMAGES_TR and case.label is None)
    if not missing:
        return []
    found = f"{len(missing)} case(s) of imagesTr have no label file: nnU-Net stops there."
    return [Finding(Severity.ERROR, "missing-label", found, "Move unlabelled scans to imagesUn.", missing)]
