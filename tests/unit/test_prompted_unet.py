"""nnU-Net's planned network with the prompted head: outputs, weights, and what nnU-Net loads into it."""

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunet_ssl.nn.dynamic_head import HEAD_WIDTH, prompted_log_odds
from nnunet_ssl.nn.prompted_unet import Prompted
from tests.unit.toy import (
    SCALES,
    SHAPES,
    SPACES,
    generator,
    prompted_network,
    stock_network,
)

HEAD_KEYS = ["head.seg_layers.prompts", "head.seg_layers.psi.weight", "head.seg_layers.psi.bias"]
PLANS = pytest.mark.parametrize(("dim", "residual"), [(2, False), (3, False), (2, True), (3, True)], ids=str)


def images(dim, batch=2):
    return torch.randn(batch, 1, *SHAPES[dim], generator=generator())


def resolutions(dim):
    return [tuple(round(s * scale) for s in SHAPES[dim]) for scale in SCALES]


# Outputs


@PLANS
@pytest.mark.parametrize(("name", "channels"), [("one_class", 2), ("tasks", 4), ("regions", 2)])
def test_shapes_with_deep_supervision(dim, residual, name, channels):
    outputs = prompted_network(SPACES[name], dim, residual=residual)(images(dim))
    assert isinstance(outputs, list)
    assert [tuple(o.shape) for o in outputs] == [(2, channels, *size) for size in resolutions(dim)]


@PLANS
@pytest.mark.parametrize(("name", "channels"), [("one_class", 2), ("tasks", 4), ("regions", 2)])
def test_shape_without_deep_supervision(dim, residual, name, channels):
    output = prompted_network(SPACES[name], dim, False, residual)(images(dim))
    assert output.shape == (2, channels, *SHAPES[dim])


@PLANS
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_one_pass_before_any_prompt(dim, residual, deep_supervision):
    network = prompted_network(SPACES["tasks"], dim, deep_supervision, residual)
    output = network(images(dim), prompted=True)
    assert isinstance(output, Prompted)
    sizes = resolutions(dim) if deep_supervision else resolutions(dim)[:1]
    assert [tuple(f.shape) for f in output.features] == [(2, HEAD_WIDTH, *size) for size in sizes]
    assert output.filters.shape == (2, 3 + 1, 162)


@pytest.mark.parametrize("name", ["tasks", "regions"])
def test_channels_are_log_odds_of_the_prompts(name):
    network = prompted_network(SPACES[name])
    output = network(images(2), prompted=True)
    for logits, features in zip(network(images(2)), output.features, strict=True):
        log_odds = prompted_log_odds(features, output.filters)[:, :-1]  # the synthetic prompt is no channel
        if name == "tasks":
            assert not logits[:, 0].any()
            logits = logits[:, 1:]
        assert torch.allclose(logits, log_odds)


def test_argmax_is_the_likeliest_prompt_that_is_likelier_than_not():
    network = prompted_network(SPACES["tasks"], deep_supervision=False)
    torch.nn.init.normal_(network.head["seg_layers"].psi.weight, std=0.4, generator=generator(1))
    logits = network(images(2))
    probability = torch.sigmoid(logits[:, 1:])
    likeliest = probability.argmax(1) + 1
    expected = torch.where(probability.amax(1) > 0.5, likeliest, 0)
    assert torch.equal(logits.argmax(1), expected)
    assert len(expected.unique()) == 4


def test_samples_do_not_see_each_other():
    network, batch = prompted_network(SPACES["tasks"], deep_supervision=False), images(2, 3)
    alone = torch.cat([network(batch[i : i + 1]) for i in range(3)])
    assert torch.allclose(network(batch), alone, atol=1e-5)


# Weights


@PLANS
def test_state_dict_keys(dim, residual):
    keys = list(prompted_network(SPACES["tasks"], dim, residual=residual).state_dict())
    assert keys == [*stock_network(4, dim, residual=residual).state_dict(), *HEAD_KEYS]


def test_shapes_of_the_head():
    state = prompted_network(SPACES["tasks"]).state_dict()
    assert [tuple(state[k].shape) for k in HEAD_KEYS] == [(4, 4), (162, 8 + 4), (162,)]


@PLANS
def test_weights_of_training_serve_prediction(dim, residual):
    training = prompted_network(SPACES["tasks"], dim, True, residual, seed=0)
    prediction = prompted_network(SPACES["tasks"], dim, False, residual, seed=1)
    prediction.load_state_dict(training.state_dict())
    assert torch.equal(prediction(images(dim)), training(images(dim))[0])


def test_deep_supervision_switch_of_nnunet():
    network = prompted_network(SPACES["tasks"])
    full = network(images(2))[0]
    network.decoder.deep_supervision = False  # what nnUNetTrainer.set_deep_supervision_enabled does
    assert torch.equal(network(images(2)), full)


def checkpoint(network, folder):
    torch.save({"network_weights": network.state_dict()}, folder / "checkpoint.pth")
    return str(folder / "checkpoint.pth")


def is_transferred(key):
    return ".seg_layers." not in key


@PLANS
@pytest.mark.parametrize("source", ["stock", "VerSemi"])
def test_pretrained_weights(dim, residual, source, tmp_path):
    network = prompted_network(SPACES["tasks"], dim, residual=residual, seed=0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    pretrained = (
        stock_network(5, dim, residual=residual, seed=1)
        if source == "stock"
        else prompted_network(SPACES["one_class"], dim, residual=residual, seed=1)
    )
    load_pretrained_weights(network, checkpoint(pretrained, tmp_path))
    theirs = pretrained.state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(value, theirs[key] if is_transferred(key) else before[key]), key
    assert sum(map(is_transferred, before)) == len(before) - 2 * 3 - 3  # squeezes and head


def test_stock_network_starts_from_prompted_weights(tmp_path):
    network, pretrained = stock_network(3, seed=0), prompted_network(SPACES["tasks"], seed=1)
    load_pretrained_weights(network, checkpoint(pretrained, tmp_path))
    theirs = pretrained.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in network.state_dict().items() if is_transferred(k))
