"""Two decoders with two heads each, and prediction from one of them or from both."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ssl.nn.multi_decoder import for_inference
from nnunet_ssl.nn.task_decoders import (
    InterpolatedUpsampling,
    RegressionHead,
    TwoBranchUNet,
    branched_network,
    decode,
    interpolating_decoder,
    mean_logits,
)
from tests.unit.dbisl_parts import channels_of, dbisl_method, dbisl_network
from tests.unit.toy import SHAPES, SPACES, generator, stock_network

# The two decoders


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_decode_is_nnunets_decoder(dim, residual):
    network, x = stock_network(3, dim, residual=residual).eval(), torch.randn(2, 1, *SHAPES[dim])
    for deep in (True, False):
        network.decoder.deep_supervision = deep
        outputs, features = decode(network.decoder, network.encoder(x), deep)
        expected = network(x)
        assert len(outputs) == (3 if deep else 1) and features.shape == (2, 4, *SHAPES[dim])
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected if deep else [expected], strict=True))


def test_the_decoders_differ_in_their_upsampling():
    network = dbisl_network(SPACES["classes"], 3)

    def kinds(decoder):
        return {
            type(m) for m in decoder.modules() if isinstance(m, nn.ConvTranspose3d | InterpolatedUpsampling)
        }

    assert kinds(network.decoder) == {nn.ConvTranspose3d}
    assert kinds(network.extra("second")) == {InterpolatedUpsampling}
    assert not any("encoder" in n for n, _ in network.extra("second").named_parameters())


@pytest.mark.parametrize("stride", [(2, 2), (1, 2, 2), (2, 2, 2)])
def test_interpolation_and_convolution_may_change_places(stride):
    kind = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[len(stride)]
    transposed = kind(6, 3, stride, stride)
    layer, x = InterpolatedUpsampling(transposed), torch.randn(2, 6, *[4] * len(stride))
    after = layer.conv(nn.functional.interpolate(x, scale_factor=layer.stride, mode=layer.mode))
    assert layer(x).shape == transposed(x).shape
    assert torch.allclose(layer(x), after, atol=1e-5)


def test_regression_heads_start_near_0_and_stay_in_float32():
    network, x = stock_network(3), torch.randn(2, 4, 8, 8, generator=generator())
    head = RegressionHead(network.decoder, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(x).dtype == torch.float32 and head(x).shape == (2, 2, 8, 8)
    assert head(x).abs().max() < 0.02
    assert head(1e6 * x).abs().max() <= 1


# Prediction


def prediction_of(space, dim, trained_for_mean, mean):
    """A trained network and what prediction builds and loads of it."""
    network = dbisl_network(space, dim, mean=trained_for_mean).eval()
    network.decoder.deep_supervision = False
    planned = stock_network(channels_of(space), dim, deep_supervision=False, seed=8)
    if mean:
        other = interpolating_decoder(stock_network(channels_of(space), dim, seed=9), True)
        planned = branched_network(planned, other, 0, True, not space.table.has_regions)
    predicting = for_inference(planned).eval()
    predicting.load_state_dict(network.state_dict())
    return network, predicting


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["classes", "regions"])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("trained_for_mean", [False, True])
def test_prediction_is_the_first_branch_or_the_mean(trained_for_mean, mean, name, dim):
    """Whichever of them the training was configured for."""
    space, x = SPACES[name], torch.randn(2, 1, *SHAPES[dim], generator=generator())
    network, predicting = prediction_of(space, dim, trained_for_mean, mean)
    to_probability = torch.sigmoid if space.table.has_regions else lambda z: z.softmax(1)
    branches = dbisl_method(space, dim).run(network, x)
    first, second = (to_probability(b.segmentation[0]) for b in branches)
    assert not torch.allclose(first, second, atol=1e-2)
    expected = (first + second) / 2 if mean else first
    assert torch.allclose(to_probability(predicting(x)), expected, atol=1e-5)
    assert torch.allclose(to_probability(network(x)), (first + second) / 2 if trained_for_mean else first)
    assert not any("regression" in n for n, _ in predicting.named_parameters())
    if not mean:  # stock nnU-Net's network
        stock = stock_network(channels_of(space), dim, seed=8)
        assert type(predicting) is type(stock) and predicting.state_dict().keys() == stock.state_dict().keys()


def test_the_mean_with_deep_supervision():
    network, x = dbisl_network(SPACES["classes"], mean=True).eval(), torch.randn(1, 1, *SHAPES[2])
    outputs = network(x)
    stock = stock_network(4).eval()
    assert [o.shape for o in outputs] == [o.shape for o in stock(x)]
    branches = dbisl_method(SPACES["classes"]).run(network, x)
    for i, o in enumerate(outputs):
        expected = sum(b.segmentation[i].softmax(1) for b in branches) / 2
        assert torch.allclose(o.softmax(1), expected, atol=1e-5)
    assert isinstance(network, TwoBranchUNet)


@pytest.mark.parametrize("has_background", [True, False])
def test_mean_logits_of_branches_that_are_sure_of_the_opposite(has_background):
    a, b = torch.tensor([[200.0, -200.0]]).view(1, 2, 1, 1), torch.tensor([[-200.0, 200.0]]).view(1, 2, 1, 1)
    mean = mean_logits(a.half(), b.half(), has_background)
    probability = mean.softmax(1) if has_background else torch.sigmoid(mean)
    assert mean.dtype == torch.float32 and torch.isfinite(mean).all()
    assert torch.allclose(probability, torch.full_like(probability, 0.5))
