"""Copy-paste masks: shares, shapes, reach, seeds, and mixing at every resolution."""

import pytest
import torch
import torch.nn.functional as F
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

from nnunet_ssl.masks import leave_whole, mix, resize_masks, same_task_partners, sample_masks
from tests.unit.toy import generator

KINDS = ["box", "random", "slice"]
SHAPES = [(1, 7), (7, 1), (5, 6, 7), (16, 16), (33, 20), (3, 40, 24), (12, 18, 17)]
RATIO = (0.3, 0.7)


def inside(kind, count, shape, ratio=RATIO, seed=0, **kwargs):
    """Pasted region, (count, *shape) bool."""
    mask = sample_masks(kind, count, shape, ratio, generator(seed), **kwargs)
    assert mask.shape == (count, 1, *shape)
    assert mask.dtype == torch.float32
    assert ((mask == 0) | (mask == 1)).all()
    return mask[:, 0] == 0


def shares(region):
    return region.flatten(1).float().mean(1)


def edges(region):
    """Edge lengths of the bounding box of one region."""
    return [int(i.max() - i.min() + 1) for i in region.nonzero(as_tuple=True)]


# Every kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_seeds(kind, shape):
    one = sample_masks(kind, 16, shape, RATIO, generator(3))
    before = torch.random.get_rng_state()
    assert torch.equal(one, sample_masks(kind, 16, shape, RATIO, generator(3)))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(one, sample_masks(kind, 16, shape, RATIO, generator(4)))
    assert len(one.flatten(1).unique(dim=0)) > 1  # drawn per sample


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_near_and_far_faces_can_be_pasted_and_kept(kind, shape):
    region = inside(kind, 150, shape, (0.05, 0.95))
    touched, kept = region.any(0), (~region).any(0)
    assert kept.all() or kind == "box"  # a box wider than half the patch always holds the centre
    for axis in range(len(shape)):
        for face in (0, -1):
            assert touched.select(axis, face).any()
            assert kept.select(axis, face).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_or_nothing(kind, shape):
    assert inside(kind, 2, shape, (1.0, 1.0)).all()
    assert shares(inside(kind, 2, shape, (0.0, 0.0))).max() <= 1 / torch.Size(shape).numel()


# Box: the paper's zero-centered mask


@pytest.mark.parametrize("shape", SHAPES)
def test_box_is_one_solid_box_with_a_share_in_bounds(shape):
    region = inside("box", 100, shape)
    volumes = region.flatten(1).sum(1)
    assert [torch.Size(edges(r)).numel() for r in region] == volumes.tolist()
    half_a_voxel = 0.5 / max(shape)
    assert RATIO[0] - half_a_voxel <= shares(region).min() <= 0.35
    assert 0.65 <= shares(region).max() <= RATIO[1] + half_a_voxel


def test_box_hand_computed():
    # 0.5^(1/3) * 8 = 6.35; then sqrt(0.5 * 8/6) * 8 = 6.53; then 0.5 * 8/6 * 8/7 * 8 = 6.10
    assert edges(inside("box", 1, (8, 8, 8), (0.5, 0.5))[0]) == [6, 7, 6]
    assert edges(inside("box", 1, (10, 20), (0.25, 0.25))[0]) == [5, 10]
    assert edges(inside("box", 1, (1, 10), (0.3, 0.3))[0]) == [1, 3]


@pytest.mark.parametrize("shape", [(16, 16), (12, 20, 16)])
def test_box_ratio_of_side(shape):
    region = inside("box", 300, shape, ratio_of="side")
    for box in region:
        ratios = [e / s for e, s in zip(edges(box), shape, strict=True)]
        assert all(0.3 - 0.5 / s <= r <= 0.7 + 0.5 / s for r, s in zip(ratios, shape, strict=True))
        assert max(ratios) - min(ratios) <= 1 / min(shape)  # the patch's proportions
    share = shares(region)  # of a volume about 2.5 - 34 %, as in the official code
    assert share.min() == pytest.approx(0.3 ** len(shape), abs=0.03)
    assert share.max() == pytest.approx(0.7 ** len(shape), abs=0.03)


def test_box_positions_are_equally_likely_and_reach_both_faces():
    region = inside("box", 2000, (8, 8, 8), (0.125, 0.125))
    for axis in (1, 2, 3):
        others = [a for a in (1, 2, 3) if a != axis]
        first = region.any(others[1]).any(others[0]).int().argmax(1)
        counts = torch.bincount(first, minlength=5)
        assert counts.min() > 300 and counts.max() < 500 and len(counts) == 5


def test_box_shares_are_uniform():
    share = shares(inside("box", 2000, (32, 32)))
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.std() == pytest.approx(0.4 / 12**0.5, abs=0.01)


# Random: cubes of edge 6


@pytest.mark.parametrize("shape", [(1, 7), (16, 16), (5, 6, 7), (7, 8, 9)])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_cubes_cover_their_share_on_average(shape, share):
    assert shares(inside("random", 1000, shape, (share, share))).mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("shape", [(128, 128), (32, 48, 48)])
def test_cubes_cover_about_their_share_of_a_real_patch(shape):
    share = shares(inside("random", 8, shape))
    assert 0.2 < share.min() and share.max() < 0.8


@pytest.mark.parametrize("shape", [(20, 17), (9, 12, 10)])
def test_cubes_are_cubes(shape):
    region = inside("random", 20, shape)[:, None].float()
    pool = F.max_pool2d if len(shape) == 2 else F.max_pool3d
    padded = F.pad(region, [5, 5] * len(shape), value=1.0)  # cubes may stick out
    seeds = 1 - pool(1 - padded, 6, stride=1)
    assert torch.equal(pool(seeds, 6, stride=1), region)


# Slice


@pytest.mark.parametrize("shape", [(10, 7), (9, 4, 5)])
def test_slices_are_whole_and_as_many_as_asked(shape):
    region = inside("slice", 50, shape)
    rows = region.flatten(2)
    assert torch.equal(rows.any(2), rows.all(2))
    assert set(rows.all(2).sum(1).tolist()) <= set(range(round(0.3 * shape[0]), round(0.7 * shape[0]) + 1))


def test_slice_of_a_flat_patch_is_all_or_nothing():
    assert set(shares(inside("slice", 50, (1, 7))).tolist()) == {0.0, 1.0}


# Mixing


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.int64, torch.float16, torch.float32])
def test_mix_keeps_dtype_and_channels(dtype):
    a, b = torch.ones(2, 3, 4, 4).to(dtype), torch.zeros(2, 3, 4, 4).to(dtype)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2] = 1
    mixed = mix(a, b, mask)
    assert mixed.dtype == dtype
    assert torch.equal(mixed.float(), mask.expand(-1, 3, -1, -1))


def test_mix_is_equation_2():
    a, b = torch.randn(2, 3, 2, 5, 6, 7, generator=generator())
    mask = sample_masks("box", 3, (5, 6, 7), RATIO, generator())
    assert torch.equal(mix(a, b, mask), a * mask + b * (1 - mask))


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        ((9, 11), [(1, 1), (0.5, 0.5), (0.25, 0.25)]),
        ((6, 11, 13), [(1, 1, 1), (1, 0.5, 0.5), (0.5, 0.25, 0.25)]),
        ((8, 16, 16), [(1, 1, 1), (0.5, 0.5, 0.5), (0.125, 0.125, 0.125)]),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_mixing_then_downsampling_is_downsampling_then_mixing(shape, scales, kind):
    downsample = DownsampleSegForDSTransform(scales)
    a, b = torch.randint(0, 9, (2, 1, *shape), generator=generator(), dtype=torch.int16)
    mask = sample_masks(kind, 1, shape, RATIO, generator())
    first_mixed = downsample(segmentation=mix(a, b, mask[0]))["segmentation"]
    low_a, low_b = downsample(segmentation=a)["segmentation"], downsample(segmentation=b)["segmentation"]
    for expected, one, other in zip(first_mixed, low_a, low_b, strict=True):
        resized = resize_masks(mask, one.shape[1:])[0]
        assert torch.equal(mix(one, other, resized), expected)


def test_resize_to_the_same_shape_is_the_mask_itself():
    mask = sample_masks("box", 2, (4, 6), RATIO, generator())
    assert resize_masks(mask, (4, 6)) is mask


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_some_masks_leave_images_whole(dtype):
    masks = sample_masks("box", 200, (4, 6), RATIO, generator()).to(dtype)
    left = leave_whole(masks, 0.3, generator(1))
    whole = left.flatten(1).bool().all(1)
    assert left.dtype == dtype and 0.6 < whole.float().mean() < 0.8
    assert torch.equal(left[~whole], masks[~whole])
    assert torch.equal(leave_whole(masks, 1, generator()), masks)
    assert leave_whole(masks, 0, generator()).bool().all()


@pytest.mark.parametrize("tasks", [[0], [0, 0], [0, 1, 0, 1], [2, 1, 2, 2, 0]])
def test_partners_are_a_permutation_within_each_task(tasks):
    tasks = torch.tensor(tasks)
    partner = same_task_partners(tasks)
    assert torch.equal(partner.sort().values, torch.arange(len(tasks)))
    assert torch.equal(tasks[partner], tasks)
    alone = torch.stack([(tasks == t).sum() == 1 for t in tasks])
    assert torch.equal(partner == torch.arange(len(tasks)), alone)
