"""Strips of pictures of two tasks (DBiSL): image, segmentation, distance, both transformed, confidence."""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.methods.base import Panel
from nnunet_ssl.methods.dual_task import Maps, Transforms, vote
from nnunet_ssl.targets import LabelSpace


def strip(
    image: Tensor, truth: Tensor | None, row: int, maps: Maps, space: LabelSpace, transforms: Transforms
) -> list[Panel]:
    """Panels of one sample through the first branch.

    Of several classes the distance of the one with most foreground is shown; of several image channels the
    first.

    Args:
        image: (C, *spatial).
        truth: target (1, channels, *spatial) of a labelled sample.
        row: of the sample in ``maps``.
        maps: outputs of all samples.
        space: the tasks.
        transforms: T_s2r and T_r2s.
    """
    k = int(maps.y[0, row].flatten(1).sum(1).argmax())
    panels = [Panel("unlabelled" if truth is None else "labelled", image[0])]
    if truth is not None:
        panels.append(Panel("truth", space.label_map(truth)[0], "labels"))
    segmented = space.label_map(space.hard(maps.log[0, row : row + 1]))
    panels.append(Panel("segmentation", segmented[0], "labels"))
    if maps.r is not None:
        r = maps.r[0, row, k]
        panels += [
            Panel("distance", r, "signed"),
            Panel("T_s2r", transforms.s2r(maps.y[:1, row, k : k + 1])[0, 0], "signed"),
            Panel("T_r2s", transforms.r2s(r), "unit"),
        ]
    confident = vote(maps, space)[1][row]
    mask = confident[k] if space.table.has_regions else confident
    return [*panels, Panel("confident", mask.float(), "unit")]
