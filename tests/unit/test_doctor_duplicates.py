"""Copies: what thumbnails recognise, what they do not, and what a pair means for a fold."""

import numpy as np
import pytest
from scipy import ndimage

from nnunet_ssl.doctor.checks.duplicates import COPY, LOOK_ALIKE, check_duplicates, find_pairs
from nnunet_ssl.doctor.thumbnails import shrink, similar_pairs, thumbnail
from tests.unit.doctor_facts import affine, case, channel, fold, grid, said, study

SHAPE = (20, 40, 48)


def scan(seed: int, shape=SHAPE) -> np.ndarray:
    """Smooth random anatomy."""
    volume = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(volume, [min(1.5, n / 8) for n in shape])
    return (1000 * smooth).astype(np.float32)


def alike(one, other, geometry=None, other_geometry=None) -> float:
    """Correlation that ``find_pairs`` sees, -1 below its threshold."""
    cases = [
        case("a", channels=[channel(volume=one, geometry=geometry or grid(one.shape))]),
        case("b", channels=[channel(volume=other, geometry=other_geometry or grid(other.shape))]),
    ]
    return next((pair.correlation for pair in find_pairs(cases)), -1.0)


def test_shrink_by_hand():
    # three voxels in two cells: the middle one is shared
    np.testing.assert_allclose(shrink(np.array([1.0, 2.0, 6.0]), 2), [(1 + 1) / 1.5, (1 + 6) / 1.5])
    np.testing.assert_allclose(shrink(np.array([1.0, 3.0]), 4), [1, 1, 3, 3])  # fewer voxels than cells


def test_shrink_keeps_the_mean_and_commutes_with_mirrors():
    volume = np.random.default_rng(0).normal(size=(7, 30, 21))
    small = shrink(volume, 16)
    assert small.shape == (16, 16, 16)
    np.testing.assert_allclose(small.mean(), volume.mean())
    np.testing.assert_allclose(shrink(volume[::-1, :, ::-1], 16), small[::-1, :, ::-1])


def test_a_thumbnail_has_norm_one_and_a_constant_image_none():
    small = thumbnail(scan(0), None, (-3e3, 3e3))
    assert small is not None
    assert small.shape == (16, 16, 16)
    np.testing.assert_allclose(np.linalg.norm(small.astype(float)), 1, rtol=1e-3)
    assert thumbnail(np.full(SHAPE, 7, np.float32), None, (7, 7)) is None
    flat = thumbnail(scan(0, (1, 40, 48)), None, (-3e3, 3e3))
    assert flat is not None
    assert flat.shape == (32, 32)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v * 0.4 + 80,  # another window, stored as another type
        lambda v: np.round(255 * (v - v.min()) / np.ptp(v)),
        lambda v: v + np.random.default_rng(1).normal(0, 0.02 * np.ptp(v), v.shape),
        lambda v: ndimage.zoom(v, 0.8, order=1),
        lambda v: v[::-1],
        lambda v: v[:, ::-1, ::-1],
    ],
    ids=["linear", "8 bit", "noise", "resampled", "upside down", "turned"],
)
def test_copies_are_recognised(change):
    assert alike(scan(0), np.ascontiguousarray(change(scan(0)))) >= COPY


def test_equal_voxels_are_exact_whatever_the_header():
    volume = scan(0)
    flipped = grid(SHAPE, flips=(-1, -1, 1))
    cases = [
        case("a", channels=[channel(volume=volume, geometry=grid(SHAPE))]),
        case("b", channels=[channel(volume=volume, geometry=flipped)]),
    ]
    (pair,) = find_pairs(cases)
    assert pair.exact
    assert pair.detail == "equal voxels"


def test_the_same_scan_with_axes_in_another_order():
    volume = scan(0)
    # (z, y, x) to (x, y, z), as a sagittal series would be stored: index i runs along superior now
    turned = np.ascontiguousarray(volume.T)
    matrix = np.array(affine(spacing=(1, 1, 1)))[:, [2, 1, 0, 3]]
    sagittal = grid(turned.shape, (1, 1, 1)).__class__(
        turned.shape, (1.0, 1.0, 1.0), tuple(map(tuple, matrix))
    )
    assert alike(volume, turned, grid(SHAPE, (1, 1, 1)), sagittal) >= COPY


@pytest.mark.parametrize("turn", [lambda v: v[:, :, ::-1], lambda v: np.swapaxes(v, 1, 2)])
def test_mirrored_and_turned_pictures(turn):
    picture = scan(0, (1, 64, 64))
    plain = grid(picture.shape).__class__(picture.shape, (999.0, 1.0, 1.0))
    assert alike(picture, np.ascontiguousarray(turn(picture)), plain, plain) >= COPY


def test_different_scans_on_a_common_background_are_not_alike():
    # What all patients share is smooth, what each has of its own is not
    common = ndimage.gaussian_filter(scan(99), 12)
    common *= 4 * scan(0).std() / common.std()
    one, other = common + scan(0), common + scan(1)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9
    assert alike(one, other) == -1


def test_constant_images_are_no_copies():
    blank = [channel(volume=np.zeros(SHAPE), geometry=grid(SHAPE))]
    assert find_pairs([case("a", channels=blank), case("b", channels=blank)]) == []


def test_all_channels_must_be_alike():
    def two(first, second):
        return [channel(volume=scan(s), geometry=grid(SHAPE)) for s in (first, second)]

    cases = [case("a", channels=two(0, 1)), case("b", channels=two(0, 2)), case("c", channels=two(0, 1))]
    assert [(p.one.case, p.other.case) for p in find_pairs(cases)] == [("a", "c")]


def test_pairs_across_chunks(monkeypatch):
    monkeypatch.setattr("nnunet_ssl.doctor.thumbnails._CHUNK", 2)
    rng = np.random.default_rng(0)
    stack = [rng.normal(size=(4, 4, 4)) for _ in range(5)]
    stack.append(stack[1][:, ::-1])
    stack.append(stack[4])
    thumbnails = [[(s / np.linalg.norm(s)).astype(np.float16)] for s in stack]
    assert [(i, j) for i, j, _ in similar_pairs(thumbnails, 0.9)] == [(1, 5), (4, 6)]


def pair(one: str, other: str) -> list:
    """Two cases of equal voxels, ``folder/name`` each, and others that are like none."""
    volume = scan(0)
    twins = [
        case(name.split("/")[1], name.split("/")[0], channels=[channel(volume=volume, geometry=grid(SHAPE))])
        for name in (one, other)
    ]
    others = [
        case(n, channels=[channel(volume=scan(i + 5), geometry=grid(SHAPE))]) for i, n in enumerate("yz")
    ]
    return [*twins, *others]


@pytest.mark.parametrize(
    ("one", "other", "split", "expected"),
    [
        ("imagesTr/a", "imagesTr/b", fold("0", ["a"], ["b"]), "error"),
        ("imagesTr/a", "imagesTr/b", fold("0", ["y"], ["b"], ["a"]), "error"),
        ("imagesTr/a", "imagesUn/b", fold("0", ["y"], ["a"]), "error"),
        ("imagesTr/a", "imagesTs/b", fold("0", ["a"], ["y"]), "error"),
        ("imagesUn/a", "imagesTs/b", fold("0", ["y"], ["z"]), "error"),
        ("imagesTr/a", "imagesTs/b", fold("0", ["y"], ["a"]), "warning"),  # validation and test
        ("imagesTr/a", "imagesUn/b", fold("0", ["a"], ["y"]), "warning"),  # labelled and unlabelled
        ("imagesTr/a", "imagesTr/b", fold("0", ["a", "b"], ["y"]), "warning"),  # twice
        ("imagesTr/a", "imagesTr/b", None, "warning"),  # no split yet
        ("imagesTr/a", "imagesTr/b", fold("0", ["y"], ["z"]), None),  # not used
    ],
)
def test_what_a_copy_means(one, other, split, expected):
    findings = check_duplicates(study(pair(one, other), None if split is None else [split]))
    assert [(severity, check) for severity, check, _ in said(findings)] == (
        [] if expected is None else [(expected, "duplicate")]
    )


def test_the_worst_fold_counts():
    split = [fold("0", ["a", "b"], ["y"]), fold("1", ["a"], ["b"]), fold("2", ["b"], ["a"])]
    (finding,) = check_duplicates(study(pair("imagesTr/a", "imagesTr/b"), split))
    assert said([finding]) == [("error", "duplicate", ("a = b",))]
    assert "in fold 1, 2" in finding.found


def test_look_alikes_are_warned_of_where_they_leak_only():
    volume = scan(0)
    like = volume + 0.35 * scan(1)
    assert LOOK_ALIKE <= alike(volume, like) < COPY
    cases = [
        case(name, channels=[channel(volume=v, geometry=grid(SHAPE))])
        for name, v in (("a", volume), ("b", like), ("y", scan(7)))
    ]
    assert said(check_duplicates(study(cases, [fold("0", ["a"], ["b"])]))) == [
        ("warning", "look-alike", ("a = b",))
    ]
    assert check_duplicates(study(cases, [fold("0", ["a", "b"], ["y"])])) == []
