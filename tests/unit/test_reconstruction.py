"""The reconstruction loss: hand-computed values, gradients, and masks of nothing and everything."""

import pytest
import torch

from nnunet_ssl.losses.reconstruction import masked_l1
from tests.unit.toy import generator


def example(shape=(2, 3, 4, 5), dtype=torch.float64, seed=0):
    draw = generator(seed)
    rebuilt, image = torch.randn(2, *shape, generator=draw, dtype=dtype)
    return rebuilt, image, torch.rand(shape[0], 1, *shape[2:], generator=draw) < 0.4


def test_hand_computed():
    """Sample 1: |3 - 1|, |0 - 4| of two voxels. Sample 2: |5 - 5| of one."""
    rebuilt = torch.tensor([[[3.0, 9.0, 0.0]], [[7.0, 5.0, 7.0]]])
    image = torch.tensor([[[1.0, 1.0, 4.0]], [[0.0, 5.0, 0.0]]])
    hidden = torch.tensor([[[True, False, True]], [[False, True, False]]])
    assert masked_l1(rebuilt, image, hidden).item() == ((2 + 4) / 2 + 0) / 2


@pytest.mark.parametrize("shape", [(1, 1, 6), (2, 3, 4, 5), (3, 2, 4, 5, 6)])
def test_is_the_mean_over_hidden_voxels_and_channels_then_over_samples(shape):
    rebuilt, image, hidden = example(shape)
    each = [
        (r - i).abs()[h.expand_as(r)].mean() if h.any() else r.new_zeros(())
        for r, i, h in zip(rebuilt, image, hidden, strict=True)
    ]
    assert masked_l1(rebuilt, image, hidden).item() == pytest.approx(float(torch.stack(each).mean()))


def test_all_hidden_is_the_mean_absolute_error():
    rebuilt, image, hidden = example()
    loss = masked_l1(rebuilt, image, torch.ones_like(hidden))
    assert loss.item() == pytest.approx(torch.nn.functional.l1_loss(rebuilt, image).item())


def test_what_is_not_hidden_does_not_matter_even_if_not_finite():
    rebuilt, image, hidden = example()
    expected = masked_l1(rebuilt, image, hidden)
    for value in (1e6, float("nan"), float("inf")):
        other = torch.where(hidden, rebuilt, value).requires_grad_()
        loss = masked_l1(other, image, hidden)
        loss.backward()
        assert loss.item() == expected.item()
        assert torch.equal(other.grad == 0, ~hidden.expand_as(rebuilt))


def test_nothing_hidden_is_0_and_connected():
    rebuilt, image, hidden = example()
    rebuilt.requires_grad_()
    loss = masked_l1(rebuilt, image, torch.zeros_like(hidden))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(rebuilt.grad, torch.zeros_like(rebuilt))


def test_one_voxel_weighs_as_much_as_a_large_target():
    rebuilt, image = torch.ones(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
    hidden = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    hidden[0] = False
    hidden[0, 0, 3, 3] = True
    rebuilt.requires_grad_()
    masked_l1(rebuilt, image, hidden).backward()
    assert rebuilt.grad[0].sum().item() == pytest.approx(0.5) == rebuilt.grad[1].sum().item()


def test_gradcheck():
    rebuilt, image, hidden = example()
    assert torch.autograd.gradcheck(lambda r: masked_l1(r, image, hidden), rebuilt.requires_grad_())


def test_a_perfect_rebuild_has_no_gradient():
    _, image, hidden = example()
    rebuilt = image.clone().requires_grad_()
    masked_l1(rebuilt, image, hidden).backward()
    assert not rebuilt.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    rebuilt = torch.full((1, 1, 300, 300), 2.0, dtype=dtype)  # the sum is beyond float16
    loss = masked_l1(rebuilt, torch.zeros(1, 1, 300, 300), torch.ones(1, 1, 300, 300, dtype=torch.bool))
    assert loss.dtype == torch.float32 and loss.item() == 2
