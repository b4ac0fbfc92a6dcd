"""Soft Dice distance of two predictions (VerSemi eq. 7)."""

import pytest
import torch

from nnunet_ssl.losses.consistency import soft_dice_distance
from tests.unit.toy import generator


def pair(shape=(3, 4, 5), dtype=torch.float32):
    return [torch.rand(shape, generator=generator(s), dtype=dtype).requires_grad_() for s in (0, 1)]


def test_hand_computed():
    # 2 * 0.5 / (1 + 0.5) = 2/3
    p, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    assert soft_dice_distance(p, q).item() == pytest.approx(1 / 3, abs=1e-5)


def test_mean_over_samples():
    p, q = pair()
    alone = [soft_dice_distance(p[i : i + 1], q[i : i + 1]).item() for i in range(3)]
    assert soft_dice_distance(p, q).item() == pytest.approx(sum(alone) / 3, rel=1e-5)


def test_symmetric():
    p, q = pair()
    assert torch.equal(soft_dice_distance(p, q), soft_dice_distance(q, p))


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 3, 4, 5)])
def test_equal_maps_agree_without_a_gradient(shape):
    p, _ = pair(shape)
    q = p.detach().clone().requires_grad_()
    loss = soft_dice_distance(p, q)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert p.grad.abs().max() < 1e-6
    assert q.grad.abs().max() < 1e-6


def test_disjoint_maps():
    p = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert soft_dice_distance(p, 1 - p).item() == pytest.approx(1, abs=1e-5)


def test_gradcheck():
    assert torch.autograd.gradcheck(soft_dice_distance, pair((2, 3, 2), torch.float64))


@pytest.mark.parametrize("p", [0.0, 1e-8, 0.5, 1.0])
@pytest.mark.parametrize("q", [0.0, 1e-8, 0.5, 1.0])
def test_finite(p, q):
    maps = [torch.full((2, 3, 3), v, requires_grad=True) for v in (p, q)]
    loss = soft_dice_distance(*maps)
    loss.backward()
    assert 0 <= loss.item() + 1e-6 <= 1
    assert all(torch.isfinite(m.grad).all() for m in maps)


def test_two_empty_maps_agree():
    assert soft_dice_distance(torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)).item() == 0


def test_non_contiguous_input():
    p, q = pair()
    turned = p.transpose(0, 2).contiguous().transpose(0, 2)
    assert not turned.is_contiguous()
    assert torch.allclose(soft_dice_distance(turned, q), soft_dice_distance(p, q))


def test_precision():
    p, q = pair()
    exact = soft_dice_distance(p.double(), q.double()).item()
    assert soft_dice_distance(p.half(), q.half()).dtype == torch.float32
    assert soft_dice_distance(p.half(), q.half()).item() == pytest.approx(exact, abs=1e-3)
    assert soft_dice_distance(p, q).item() == pytest.approx(exact, abs=1e-6)


def test_half_maps_do_not_overflow():
    ones = torch.ones(1, 100_000, dtype=torch.float16)  # their sum is beyond half precision
    assert soft_dice_distance(ones, ones).item() == pytest.approx(0, abs=1e-6)
