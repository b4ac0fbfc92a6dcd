"""Metrics against values computed by hand, by brute force and by MedPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from nnunet_ssl.evaluation.metrics import METRICS, dice, jaccard, scores, surface

Mask = NDArray[np.bool_]


def box(shape: tuple[int, ...], *bounds: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*b) for b in bounds)] = True
    return mask


def blobs(seed: int, shape: tuple[int, ...] = (9, 11, 13)) -> Mask:
    """Smooth random regions: connected, ragged, touching the border now and then."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.2)
    return noise > np.quantile(noise, 0.8)


def brute_force_distances(source: Mask, target: Mask, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Distance of each surface voxel of ``source`` to the nearest of ``target``, over all pairs."""

    def points(mask: Mask) -> NDArray[np.float64]:
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            inner &= np.roll(padded, step, axis)
        return (np.argwhere(padded & ~inner) - 1) * np.asarray(spacing)

    return np.linalg.norm(points(source)[:, None] - points(target)[None], axis=-1).min(1)


# Two 4 x 4 x 4 cubes, one voxel apart along the last axis. Of the 56 surface voxels of one, the 16 of the far
# face are one step from the other's surface, and so are the 4 in the middle of the near face; the rest
# coincide.
SHIFTED = box((4, 4, 6), (0, 4), (0, 4), (1, 5)), box((4, 4, 6), (0, 4), (0, 4), (0, 4))


def test_shifted_cubes_by_hand() -> None:
    assert dice(*SHIFTED) == pytest.approx(2 * 48 / 128)
    assert jaccard(*SHIFTED) == pytest.approx(48 / 80)
    assert surface(SHIFTED[0]).sum() == 56
    found = scores(*SHIFTED)
    assert (found["HD95"], found["ASD"]) == (1, pytest.approx(20 / 56))


def test_anisotropic_spacing_by_hand() -> None:
    # 3 mm along the shift: the far face is 3 mm away, the middle of the near face 1 mm (sideways)
    spacing = (1.0, 1.0, 3.0)
    found = scores(*SHIFTED, spacing)
    assert (found["HD95"], found["ASD"]) == (3, pytest.approx((16 * 3 + 4 * 1) / 56))
    assert found["Dice"] == dice(*SHIFTED)


def test_one_voxel() -> None:
    one, other = box((3, 4, 8), (1, 2), (0, 1), (2, 3)), box((3, 4, 8), (1, 2), (3, 4), (6, 7))
    assert scores(one, other, (5.0, 1.0, 2.0)) == {
        "Dice": 0.0,
        "Jaccard": 0.0,
        "HD95": pytest.approx(np.hypot(3 * 1, 4 * 2)),
        "ASD": pytest.approx(np.hypot(3 * 1, 4 * 2)),
    }


def test_hd95_leaves_out_the_farthest_twentieth() -> None:
    line = box((1, 100), (0, 1), (0, 39))
    with_outlier = line.copy()
    with_outlier[0, 99] = True  # 60 from the line's end; one of 79 pooled distances
    found = scores(with_outlier, line)
    assert (found["HD95"], found["ASD"]) == (0, pytest.approx(61 / 40))  # from voxel 99 to voxel 38


def test_identical_masks() -> None:
    mask = blobs(0)
    assert scores(mask, mask) == {"Dice": 1.0, "Jaccard": 1.0, "HD95": 0.0, "ASD": 0.0}


def test_an_empty_mask_has_no_distance() -> None:
    full, empty = box((3, 3), (0, 2), (0, 2)), np.zeros((3, 3), bool)
    for pair in ((full, empty), (empty, full)):
        found = scores(*pair)
        assert found["Dice"] == found["Jaccard"] == 0
        assert np.isnan(found["HD95"]) and np.isnan(found["ASD"])


def test_nothing_is_defined_where_both_are_empty() -> None:
    empty = np.zeros((3, 3, 3), bool)
    assert all(np.isnan(v) for v in scores(empty, empty).values())


def test_a_mask_that_fills_the_array_has_a_surface() -> None:
    full = np.ones((4, 5, 6), bool)
    assert surface(full).sum() == 4 * 5 * 6 - 2 * 3 * 4
    assert scores(full, full)["HD95"] == 0


def test_overlap_and_hd95_do_not_depend_on_the_order_of_the_masks() -> None:
    one, other = blobs(1), blobs(2)
    forth, back = scores(one, other, (2, 1, 1)), scores(other, one, (2, 1, 1))
    assert {m: forth[m] for m in ("Dice", "Jaccard", "HD95")} == {
        m: back[m] for m in ("Dice", "Jaccard", "HD95")
    }
    assert forth["ASD"] != back["ASD"]  # directed, as MedPy's asd


def test_axes_and_memory_order_do_not_matter() -> None:
    one, other, spacing = blobs(1), blobs(2), (3.0, 1.0, 0.5)
    expected = scores(one, other, spacing)
    assert scores(np.asfortranarray(one), other, spacing) == pytest.approx(expected)
    assert scores(one.T, other.T, spacing[::-1]) == pytest.approx(expected)
    assert scores(one[::-1, :, ::-1], other[::-1, :, ::-1], spacing) == pytest.approx(expected)


def test_scores_hold_the_overlaps_too() -> None:
    one, other = blobs(3), blobs(4)
    found = scores(one, other, (2.0, 1.0, 1.0))
    assert tuple(found) == METRICS
    assert (found["Dice"], found["Jaccard"]) == (dice(one, other), jaccard(one, other))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.3)])
def test_distances_agree_with_brute_force(spacing: tuple[float, float, float]) -> None:
    one, other = blobs(5), blobs(6)
    to_other = brute_force_distances(one, other, spacing)
    pooled = np.concatenate((to_other, brute_force_distances(other, one, spacing)))
    found = scores(one, other, spacing)
    assert found["ASD"] == pytest.approx(to_other.mean(), abs=1e-9)
    assert found["HD95"] == pytest.approx(np.percentile(pooled, 95), abs=1e-9)


@pytest.mark.parametrize("shape", [(9, 11, 13), (17, 19)])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_medpy(seed: int, shape: tuple[int, ...]) -> None:
    medpy = pytest.importorskip("medpy.metric.binary")
    one, other = blobs(seed, shape), blobs(seed + 100, shape)
    for spacing in (None, (2.5, 0.8, 1.1)[: len(shape)]):
        assert scores(one, other, spacing) == pytest.approx(
            {
                "Dice": medpy.dc(one, other),
                "Jaccard": medpy.jc(one, other),
                "HD95": medpy.hd95(one, other, voxelspacing=spacing),
                "ASD": medpy.asd(one, other, voxelspacing=spacing),
            },
            abs=1e-6,
        )


def test_shapes_and_spacing_are_checked() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2, 2\) and \(2, 3\)"):
        scores(np.ones((2, 2), bool), np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="2 entries"):
        scores(np.ones((2, 2), bool), np.ones((2, 2), bool), (1.0, 1.0, 1.0))
