"""The prompted head: filters, all prompts at once, and the explicit form of eq. 1."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunet_ssl.nn.dynamic_head import (
    HEAD_LAYERS,
    NUM_FILTERS,
    FilterController,
    prompt_vectors,
    prompted_log_odds,
    split_filters,
)
from tests.unit.toy import generator, passthrough

CHANNELS, PROMPTS = 6, 4
SPATIAL = [(5, 7), (3, 4, 5)]


def controller(kind="one_hot"):
    torch.manual_seed(0)
    text = torch.randn(PROMPTS, 10).tolist() if kind == "text" else None
    return FilterController(CHANNELS, prompt_vectors(kind, PROMPTS, text), learned=kind == "soft")


def inputs(spatial, batch=2):
    draw = generator(1)
    bottleneck = torch.randn(batch, CHANNELS, *[2] * len(spatial), generator=draw).requires_grad_()
    features = torch.randn(batch, 8, *spatial, generator=draw).requires_grad_()
    return bottleneck, features


def test_162_filters():
    assert NUM_FILTERS == 162 == 8 * 8 + 8 * 8 + 8 * 2 + 8 + 8 + 2
    assert controller().psi.weight.shape == (162, CHANNELS + PROMPTS)


def test_filters_are_cut_without_loss():
    filters = torch.arange(2 * 3 * 162.0).view(2, 3, 162)
    weights, biases = split_filters(filters)
    assert [w.shape[2:] for w in weights] == [(8, 8), (8, 8), (2, 8)]
    assert [b.shape[2:] for b in biases] == [(8,), (8,), (2,)]
    assert torch.equal(torch.cat([p.flatten(2) for p in (*weights, *biases)], 2), filters)


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("kind", ["one_hot", "soft", "text"])
def test_psi_is_a_convolution_of_gap_and_prompt(spatial, kind):
    psi = controller(kind)
    bottleneck, _ = inputs(spatial)
    filters = psi(bottleneck)
    assert filters.shape == (2, PROMPTS, 162)
    gap = bottleneck.mean(tuple(range(2, bottleneck.ndim)))
    for k in range(PROMPTS):
        embedding = torch.cat([gap, psi.prompts[k].expand(2, -1)], 1)[..., None, None, None]
        expected = F.conv3d(embedding, psi.psi.weight[..., None, None, None], psi.psi.bias)
        assert torch.allclose(filters[:, k], expected.flatten(1), atol=1e-6)


def explicit(features, filters):
    """Two-channel logits of one sample under one prompt with conv3d, (2, *spatial)."""
    x = features.view(1, 8, *[1] * (4 - features.ndim), *features.shape[1:])
    pieces = filters.split([i * o for i, o in HEAD_LAYERS] + [o for _, o in HEAD_LAYERS])
    for n, (i, o) in enumerate(HEAD_LAYERS):
        x = F.conv3d(x, pieces[n].view(o, i, 1, 1, 1), pieces[3 + n])
        x = F.relu(x) if n < 2 else x
    return x.view(2, *features.shape[1:])


@pytest.mark.parametrize("spatial", SPATIAL)
def test_equals_the_explicit_two_channel_softmax(spatial):
    bottleneck, features = inputs(spatial, batch=3)
    filters = controller()(bottleneck)
    log_odds = prompted_log_odds(features, filters)
    assert log_odds.shape == (3, PROMPTS, *spatial)
    for b in range(3):
        for k in range(PROMPTS):
            probability = explicit(features[b], filters[b, k]).softmax(0)[1]
            assert torch.allclose(torch.sigmoid(log_odds[b, k]), probability, atol=1e-6)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_all_prompts_at_once_equal_one_at_a_time(spatial):
    bottleneck, features = inputs(spatial)
    filters = controller()(bottleneck)
    together = prompted_log_odds(features, filters)
    alone = [prompted_log_odds(features, filters[:, k : k + 1]) for k in range(PROMPTS)]
    assert torch.allclose(together, torch.cat(alone, 1), atol=1e-6)
    by_sample = [prompted_log_odds(features[b : b + 1], filters[b : b + 1]) for b in range(2)]
    assert torch.allclose(together, torch.cat(by_sample), atol=1e-6)


@pytest.mark.parametrize("kind", ["one_hot", "soft", "text"])
def test_gradient_reaches_bottleneck_psi_features_and_soft_prompts(kind):
    psi = controller(kind)
    bottleneck, features = inputs((5, 7))
    prompted_log_odds(features, psi(bottleneck)).square().sum().backward()
    for tensor in (bottleneck, features, psi.psi.weight, psi.psi.bias):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.any()
    assert (psi.prompts.grad is not None) == (kind == "soft")


def test_a_one_hot_prompt_moves_its_own_column_only():
    psi = controller()
    bottleneck, features = inputs((5, 7))
    prompted_log_odds(features, psi(bottleneck)[:, 2:3]).sum().backward()
    columns = psi.psi.weight.grad[:, CHANNELS:].abs().sum(0)
    assert columns[2] > 0
    assert not columns[[0, 1, 3]].any()


@pytest.mark.parametrize(("kind", "learned"), [("one_hot", False), ("soft", True), ("text", False)])
def test_kinds_of_prompts(kind, learned):
    psi = controller(kind)
    assert list(psi.state_dict()) == ["prompts", "psi.weight", "psi.bias"]
    assert ("prompts" in dict(psi.named_parameters())) == learned
    assert ("prompts" in dict(psi.named_buffers())) != learned


def test_prompt_vectors():
    assert torch.equal(prompt_vectors("one_hot", 3, None), torch.eye(3))
    assert prompt_vectors("soft", 3, None, width=5).shape == (3, 5)
    text = prompt_vectors("text", 2, [[3.0, 4.0], [0.0, 0.0]])
    assert torch.allclose(text, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_extreme_features_stay_finite():
    bottleneck, features = inputs((5, 7))
    filters = controller()(bottleneck * 1e3)
    assert torch.isfinite(prompted_log_odds(features * 1e3, filters)).all()
    assert torch.isfinite(prompted_log_odds(torch.zeros_like(features), filters)).all()


def test_hand_made_filters():
    z = torch.randn(2, 3, 4, 5, generator=generator())
    made = passthrough(z)
    assert torch.allclose(prompted_log_odds(made.features[0], made.filters), z)


# The V-Net of the semi-supervised literature


def vnet_body(width=16, blocks=(1, 2, 3, 3, 3, 3, 3, 2, 1)):
    """16 convolutions down, 14 up, batch norm, no residuals: everything before the output layer."""
    layers, channels = [], 1
    down = [width * 2**i for i in range(5)]
    for stage, (out, count) in enumerate(zip([*down, *down[-2::-1]], blocks, strict=True)):
        if stage:
            kind = nn.Conv3d if stage < 5 else nn.ConvTranspose3d
            layers += [kind(channels, out, 2, stride=2), nn.BatchNorm3d(out)]
            channels = out
        for _ in range(count):
            layers += [nn.Conv3d(channels, out, 3, padding=1), nn.BatchNorm3d(out)]
            channels = out
    return nn.Sequential(*layers)


def count(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def test_parameters_of_the_head_on_the_papers_vnet():
    # Table X rounds to 9.48 M; four tasks and the synthetic one
    with torch.device("meta"):
        body, squeeze = vnet_body(), nn.Conv3d(16, 8, 1)
        assert count(body, nn.Conv3d(16, 2, 1)) == 9_448_866  # the plain V-Net
        head = FilterController(256, torch.eye(5))
        assert count(head) == 162 * (256 + 5 + 1)
        assert count(body, squeeze, head) == 9_491_412
