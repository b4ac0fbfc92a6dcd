"""The planned network with training-only parts: names, inference, and what prediction loads."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY, MultiDecoderUNet, detached_decoder, for_inference
from tests.unit.toy import SHAPES, stock_network


def network(dim: int = 2, residual: bool = False) -> MultiDecoderUNet:
    extra = detached_decoder(stock_network(1, dim, residual=residual, seed=1), deep_supervision=False)
    return MultiDecoderUNet(stock_network(3, dim, residual=residual), rebuild=extra)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_keys_are_stocks_and_those_of_training(dim, residual):
    keys, stock = (
        set(network(dim, residual).state_dict()),
        set(stock_network(3, dim, residual=residual).state_dict()),
    )
    assert stock < keys
    assert all(k.startswith(f"{TRAINING_ONLY}.seg_layers.rebuild.") for k in keys - stock)
    assert not any("rebuild.encoder" in k for k in keys)


def test_inference_is_the_planned_network():
    planned, x = stock_network(3), torch.randn(2, 1, *SHAPES[2])
    expected = planned(x)
    for a, b in zip(MultiDecoderUNet(planned)(x), expected, strict=True):
        assert torch.equal(a, b)


def test_a_run_happens_inside_the_call():
    net, x = network(), torch.randn(2, 1, *SHAPES[2])
    rebuilt = net(x, lambda parts, images: parts.extra("rebuild")(parts.encoder(images)))
    assert rebuilt.shape == (2, 1, *SHAPES[2])
    rebuilt.sum().backward()
    assert all(p.grad is not None for p in net.extra("rebuild").parameters())
    assert all(p.grad is None for p in net.decoder.stages.parameters())


def test_prediction_loads_the_planned_part_only():
    net, x = network().eval(), torch.randn(1, 1, *SHAPES[2])
    checkpoint = net.state_dict()
    before = set(checkpoint)
    stock = for_inference(stock_network(3, deep_supervision=False, seed=5)).eval()
    stock.load_state_dict(checkpoint)
    assert torch.equal(stock(x), net(x)[0])
    assert set(checkpoint) == before  # the caller's dictionary stays whole


def test_unknown_keys_are_still_an_error():
    checkpoint = {**network().state_dict(), "surprise": torch.zeros(1)}
    with pytest.raises(RuntimeError, match="surprise"):
        for_inference(stock_network(3)).load_state_dict(checkpoint)
