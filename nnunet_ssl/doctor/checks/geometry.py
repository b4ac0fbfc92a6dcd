"""Voxel grids: channels against each other, label against image, and the number of channels."""

from __future__ import annotations

from collections import Counter

import numpy as np

from nnunet_ssl.doctor.facts import IMAGES_TR, CaseFacts, Geometry
from nnunet_ssl.doctor.findings import Finding, Severity, of_cases
from nnunet_ssl.doctor.study import Study

# Relative. Between channels, nnU-Net's reader refuses more; a label's spacing is only verified on demand,
# and differences below a thousandth are rounding of the header.
CHANNEL_SPACING_TOLERANCE, LABEL_SPACING_TOLERANCE = 1e-5, 1e-3
SHIFT_TOLERANCE = 0.1  # of a voxel, at the corners of the grid


def check_channel_count(study: Study) -> list[Finding]:
    """As many channels as dataset.json names, in every case that can be read."""
    wanted = len(study.channel_names)
    hits = [
        (case, f"{len(case.channels)}: {', '.join(dict.fromkeys(c.file for c in case.channels))}")
        for case in study.cases
        if wanted and case.channels and len(case.channels) != wanted and not case.unreadable
    ]
    found = f"{{n}} case(s) do not have the {wanted} channel(s) that dataset.json names."
    todo = "Add the missing files (_0000, _0001, ...), save colour as greyscale, or correct 'channel_names'."
    return of_cases(Severity.ERROR, "channels", found, todo, hits)


def check_channels(study: Study) -> list[Finding]:
    """All channels of a case lie on the same grid."""
    refused: list[tuple[CaseFacts, str]] = []
    apart: list[tuple[CaseFacts, str]] = []
    for case in study.cases:
        grids = [channel.geometry for channel in case.channels]
        differences = [difference(grids[0], other, CHANNEL_SPACING_TOLERANCE) for other in grids[1:]]
        files = [channel.file for channel in case.channels[1:]]
        remarks = [
            (f"{file}: {text}", hard) for file, (text, hard) in zip(files, differences, strict=True) if text
        ]
        if remarks:
            hit = (case, "; ".join(text for text, _ in remarks))
            (refused if any(hard for _, hard in remarks) else apart).append(hit)
    return [
        *of_cases(
            Severity.ERROR,
            "channel-geometry",
            "{n} case(s) have channels of different shape or spacing: nnU-Net refuses them.",
            "Resample the channels of a case to one grid.",
            refused,
        ),
        *of_cases(
            Severity.WARNING,
            "channel-geometry",
            "{n} case(s) have channels of equal shape whose headers place them differently.",
            "nnU-Net lays voxel on voxel: see whether the channels fit, then correct origin and direction.",
            apart,
        ),
    ]


def check_labels(study: Study) -> list[Finding]:
    """A label lies on the grid of its image."""
    refused: list[tuple[CaseFacts, str]] = []
    apart: list[tuple[CaseFacts, str]] = []
    for case in study.cases:
        if case.label is None or not case.channels:
            continue
        text, hard = difference(case.channels[0].geometry, case.label.geometry, LABEL_SPACING_TOLERANCE)
        if text:
            (refused if hard else apart).append((case, text))
    return [
        *of_cases(
            Severity.ERROR,
            "label-geometry",
            "{n} case(s) have a label of another shape or spacing than the image.",
            "Resample the label to the image (nearest neighbour), or find the label that belongs to it.",
            refused,
        ),
        *of_cases(
            Severity.WARNING,
            "label-geometry",
            "{n} case(s) have a label whose header places it elsewhere than the image.",
            "nnU-Net lays voxel on voxel and ignores both headers: look at image and label one over the "
            "other (nnUNetv2_plot_overlay_pngs); a mirrored label must be mirrored back.",
            apart,
        ),
    ]


def check_dimension(study: Study) -> list[Finding]:
    """No 2D image among 3D scans and no 3D scan among 2D images."""
    flat = {id(case): case.channels[0].geometry.shape[0] == 1 for case in study.cases if case.channels}
    training = [flat[id(case)] for case in study.in_folder(IMAGES_TR) if id(case) in flat]
    if not training:
        return []
    usual = Counter(training).most_common(1)[0][0]
    hits = [
        (case, "x".join(map(str, case.channels[0].geometry.shape)))
        for case in study.cases
        if id(case) in flat and flat[id(case)] != usual
    ]
    kinds = ("3D scans", "2D images")
    found = f"{{n}} case(s) are {kinds[not usual]} in a dataset of {kinds[usual]}."
    todo = "Make a dataset of its own for them, or convert them."
    return of_cases(Severity.ERROR, "dimension", found, todo, hits)


def difference(one: Geometry, other: Geometry, spacing_tolerance: float) -> tuple[str, bool]:
    """How two grids differ, in words (empty if they do not), and whether shape or spacing do."""
    if one.shape != other.shape:
        return f"shape {_times(other.shape)}, not {_times(one.shape)}", True
    if not np.allclose(one.spacing, other.spacing, rtol=spacing_tolerance, atol=0):
        return f"spacing {_times(other.spacing)} mm, not {_times(one.spacing)} mm", True
    if one.affine is None or other.affine is None or _corner_shift(one, other) <= SHIFT_TOLERANCE:
        return "", False
    if one.orientation != other.orientation:
        return f"direction {other.orientation}, not {one.orientation}", False
    return f"up to {_corner_shift(one, other) * min(one.spacing):.3g} mm away", False


def _corner_shift(one: Geometry, other: Geometry) -> float:
    """Largest distance between equal corners of two grids of one shape, in voxels of the finest spacing."""
    z, y, x = one.shape
    corners = np.array([[i, j, k, 1] for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)])
    apart = corners @ (np.array(one.affine) - np.array(other.affine)).T
    return float(np.linalg.norm(apart[:, :3], axis=1).max() / min(one.spacing))


def _times(values: tuple[float, ...]) -> str:
    return "x".join(f"{value:.4g}" for value in values)
