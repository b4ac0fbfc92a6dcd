"""Dice + CE of binary predictions: by hand, against nnU-Net's own losses, and at the edges."""

import math

import pytest
import torch

from nnunet_ssl.losses.dice_ce import binary_dice_ce, masked_mean, soft_dice
from tests.unit.toy import SPACES, dice_ce, generator, nnunet_loss

S = 1e-5
SHAPES = [(4, 6), (2, 4, 3)]


def maps(count=3, shape=(4, 6), dtype=torch.float32, seed=0):
    """Log-odds and targets of ``count`` pairs."""
    z = 2 * torch.randn(count, *shape, generator=generator(seed), dtype=torch.float64)
    y = torch.rand(count, *shape, generator=generator(seed + 1)) > 0.6
    return z.to(dtype).requires_grad_(), y


def even(count):
    return torch.full((count,), 1 / count)


# By hand


def test_undecided_map():
    # p = 1/2 everywhere, one of four voxels is foreground: Dice (2 * 1/2) / (2 + 1), CE ln 2
    z, y = torch.zeros(1, 2, 2), torch.tensor([[[1, 0], [0, 0]]])
    assert binary_dice_ce(z, y, torch.ones(1)).item() == pytest.approx(2 / 3 + math.log(2), abs=1e-5)


def test_pairs_are_weighted():
    z, y = maps()
    weight = torch.tensor([0.5, 0.0, 2.0])
    expected = 0.5 * dice_ce(z[0], y[0]) + 2 * dice_ce(z[2], y[2])
    assert binary_dice_ce(z, y, weight).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_voxels_that_do_not_count(shape):
    z, y = maps(2, shape)
    valid = torch.rand(2, *shape, generator=generator(5)) > 0.3
    expected = (dice_ce(z[0], y[0], valid[0]) + dice_ce(z[1], y[1], valid[1])) / 2
    loss = binary_dice_ce(z, y, even(2), valid)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert not z.grad[~valid].any()
    assert z.grad[valid].all()


def test_a_group_shares_one_dice():
    z, y = maps(3)
    p, weight = torch.sigmoid(z), torch.tensor([0.2, 0.3, 0.5])
    both = (2 * (p[:2] * y[:2]).sum() + S) / (p[:2].sum() + y[:2].sum() + S)
    own = (2 * (p[2] * y[2]).sum() + S) / (p[2].sum() + y[2].sum() + S)
    dice = soft_dice(p.flatten(1), y.float().flatten(1), None, torch.tensor([4, 4, 1]), weight)
    assert dice.item() == pytest.approx((0.5 * (1 - both) + 0.5 * (1 - own)).item(), rel=1e-5)


@pytest.mark.parametrize("group", [None, torch.tensor([0, 1, 0])])
def test_the_cross_entropy_has_a_weight(group):
    z, y = maps(3, dtype=torch.float64)
    valid = torch.rand(3, 4, 6, generator=generator(5)) > 0.3
    dice, some, whole = (
        binary_dice_ce(z, y, even(3), valid, group, ce_weight).item() for ce_weight in (0.0, 0.005, 1.0)
    )
    assert some == pytest.approx(dice + 0.005 * (whole - dice))
    assert whole == binary_dice_ce(z, y, even(3), valid, group).item() > dice > 0


def test_groups_of_one_are_no_groups():
    z, y = maps(3)
    alone = binary_dice_ce(z, y, even(3))
    assert torch.allclose(alone, binary_dice_ce(z, y, even(3), group=torch.tensor([2, 0, 1])))


def test_only_the_difference_of_two_logits_matters():
    logits = torch.randn(2, 3, 5, generator=generator())
    y = torch.tensor([[1.0] * 5, [0, 1, 0, 1, 0], [0.0] * 5])
    p, z = logits.softmax(0)[1], logits[1] - logits[0]
    assert torch.allclose(p, torch.sigmoid(z))
    two_channels = torch.nn.functional.cross_entropy(logits.transpose(0, 1), y.long(), reduction="none")
    one_channel = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    assert torch.allclose(two_channels, one_channel, atol=1e-6)


def test_masked_mean():
    value = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert masked_mean(value, mask).tolist() == [1.5, 0.0]
    assert masked_mean(value, None).tolist() == [3.0, 4.0]


# Against nnU-Net


def two_channels(z):
    return torch.stack([torch.zeros_like(z), z], dim=1)


def compare(ours, theirs, z):
    """Equal up to the constant 1 (nnU-Net's Dice loss is -Dice), with equal gradients."""
    assert ours.item() == pytest.approx(theirs.item() + 1, rel=1e-5)
    mine, nnunets = (torch.autograd.grad(loss, z)[0] for loss in (ours, theirs))
    assert torch.allclose(mine, nnunets, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_equals_nnunet(shape, batch_dice):
    z, y = maps(3, shape)
    group = torch.zeros(3, dtype=torch.long) if batch_dice else None
    loss = nnunet_loss(SPACES["one_class"], deep_supervision=False, batch_dice=batch_dice)
    compare(binary_dice_ce(z, y, even(3), group=group), loss(two_channels(z), y[:, None]), z)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_equals_nnunet_with_ignore_label(batch_dice):
    # as many voxels count in each sample: nnU-Net averages the CE over the batch's voxels, we per sample
    z, y = maps(3)
    valid = torch.ones_like(y)
    for sample in range(3):
        valid[sample, sample] = False
    target = torch.where(valid, y.long(), 2)[:, None]
    group = torch.zeros(3, dtype=torch.long) if batch_dice else None
    loss = nnunet_loss(SPACES["one_class_ignore"], deep_supervision=False, batch_dice=batch_dice)
    compare(binary_dice_ce(z, y, even(3), valid, group), loss(two_channels(z), target), z)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
def test_equals_nnunet_with_regions(batch_dice, ignore):
    z, y = maps(6)
    valid = torch.ones(3, 1, 4, 6, dtype=torch.bool)
    valid[:, :, 1] = not ignore
    target, logits = y.view(3, 2, 4, 6), z.view(3, 2, 4, 6)
    group = torch.tensor([0, 1] * 3) if batch_dice else None
    ours = binary_dice_ce(z, y, even(6), valid.expand(-1, 2, -1, -1).flatten(0, 1), group)
    name = "regions_ignore" if ignore else "regions"
    loss = nnunet_loss(SPACES[name], deep_supervision=False, batch_dice=batch_dice)
    loss.weight_ce = 1 / 2 if ignore else 1  # with an ignore label nnU-Net sums the BCE of the two regions
    compare(ours, loss(logits, torch.cat([target, ~valid], 1) if ignore else target), z)


# Gradients and edges


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_gradcheck(masked, grouped):
    z, y = maps(3, (2, 3), torch.float64)
    valid = torch.rand(3, 2, 3, generator=generator(5)) > 0.3 if masked else None
    group = torch.tensor([0, 1, 0]) if grouped else None
    weight = torch.tensor([0.2, 0.3, 0.5])
    assert torch.autograd.gradcheck(lambda x: binary_dice_ce(x, y, weight, valid, group), z)


def test_precision():
    z, y = maps()
    single, double = (binary_dice_ce(x, y, even(3)) for x in (z, z.double()))
    half = binary_dice_ce(z.half(), y, even(3))
    assert (half.dtype, single.dtype, double.dtype) == (torch.float32, torch.float32, torch.float64)
    assert single.item() == pytest.approx(double.item(), rel=1e-5)
    assert half.item() == pytest.approx(double.item(), rel=1e-2)


def test_non_contiguous_input():
    z, y = maps(3)
    turned = [t.transpose(0, 2).contiguous().transpose(0, 2) for t in (z, y)]
    assert not turned[0].is_contiguous()
    assert torch.allclose(binary_dice_ce(*turned, even(3)), binary_dice_ce(z, y, even(3)))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -1.0, 0.0, 1.0, 1e4])
@pytest.mark.parametrize("valid", [None, True, False])
def test_finite(grouped, target, logit, valid):
    z = torch.full((2, 3, 3), logit, requires_grad=True)
    keep = None if valid is None else torch.full((2, 3, 3), valid)
    group = torch.zeros(2, dtype=torch.long) if grouped else None
    loss = binary_dice_ce(z, torch.full((2, 3, 3), target), even(2), keep, group)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    if valid is False:
        assert loss.item() == 0
        assert not z.grad.any()


def test_empty_and_predicted_empty_is_no_loss():
    loss = binary_dice_ce(torch.full((1, 4, 4), -50.0), torch.zeros(1, 4, 4), torch.ones(1))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_wrong_by_far_has_a_gradient():
    z = torch.full((1, 4, 4), 30.0, requires_grad=True)
    binary_dice_ce(z, torch.zeros(1, 4, 4), torch.ones(1)).backward()
    assert (z.grad > 0).all()
