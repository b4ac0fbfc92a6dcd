"""timm's ConvNeXt in place of the planned encoder."""

from __future__ import annotations

import pytest
import timm
import torch

from nnunet_ssl.errors import ConfigError, DataError
from nnunet_ssl.nn.prompting import PromptTokens
from nnunet_ssl.nn.propl_unet import build_propl_unet
from nnunet_ssl.nn.timm_encoder import STRIDES, TimmEncoder, TimmUNet, check_timm_plans
from tests.unit.toy import generator

NAME = "convnext_atto"
SIZES = [64, 32, 16, 8, 4, 2]
HALVING = [[1, 1]] + [[2, 2]] * 5


def images(channels=1):
    return torch.randn(2, channels, 64, 64, generator=generator())


def test_features_of_six_stages():
    encoder = TimmEncoder(NAME, 2)
    features = encoder(images(2))
    assert [f.shape[2] for f in features] == SIZES
    assert [f.shape[1] for f in features] == encoder.output_channels == [32, 64, 40, 80, 160, 320]


def test_convnext_tiny_has_the_papers_channels():
    backbone = timm.create_model("convnext_tiny", features_only=True)
    assert backbone.feature_info.channels() == [96, 192, 384, 768]


def test_decoder_with_deep_supervision():
    outputs = TimmUNet(NAME, 1, 3, deep_supervision=True)(images())
    assert [tuple(o.shape) for o in outputs] == [(2, 3, size, size) for size in SIZES[:-1]]


def test_network_with_prompts():
    torch.manual_seed(0)
    made = build_propl_unet(
        lambda: TimmUNet(NAME, 1, 1, True),
        ("sd", "pd"),
        PromptTokens(torch.randn(3, 5, 6)),
        4,
        (24, 12, 9),
        3,
        has_background=True,
    )
    assert made.bottleneck.shape((64, 64)) == (320, 2, 2)
    outputs = made(images())
    assert [tuple(o.shape) for o in outputs] == [(2, 4, size, size) for size in SIZES[:-1]]
    outputs[0].square().mean().backward()
    without = [n for n, p in made.named_parameters() if p.grad is None]
    assert without and all(n.startswith(("decoder.", "prompted.seg_layers.layers_sd")) for n in without)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_weights_from_a_file(tmp_path, channels):
    torch.manual_seed(0)
    source = timm.create_model(NAME)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(1)
    made = TimmEncoder(NAME, channels, str(tmp_path / "weights.pth")).backbone.state_dict()
    theirs = source.state_dict()
    key, same = "stages_3.blocks.1.mlp.fc1.weight", "stages.3.blocks.1.mlp.fc1.weight"
    assert torch.equal(made[key], theirs[same])
    stem, colours = made["stem_0.weight"], theirs["stem.0.weight"]
    if channels == 3:
        assert torch.equal(stem, colours)
    if channels == 1:  # timm's way for gray images: a gray image gives what it gives in three equal colours
        assert torch.allclose(stem, colours.sum(1, keepdim=True), atol=1e-6)
    assert stem.shape[1] == channels


def test_bad_weights(tmp_path):
    with pytest.raises(DataError, match="is none"):
        TimmEncoder(NAME, 1, str(tmp_path / "missing.pth"))
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    state = timm.create_model(NAME).state_dict()
    cut = {key: value for key, value in state.items() if not key.startswith("stages.3.")}
    torch.save(cut, tmp_path / "cut.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights at all")
    for name in ("other.pth", "cut.pth", "text.pth", "text.safetensors"):
        with pytest.raises(DataError, match=f"no weights of {NAME}"):
            TimmEncoder(NAME, 1, str(tmp_path / name))


@pytest.mark.parametrize("name", ["resnet34", "convnext_enormous"])
def test_unknown_encoder(name):
    with pytest.raises(ConfigError, match=f"ConvNeXts .*{name}"):
        TimmEncoder(name, 1)


def test_plans_that_fit():
    check_timm_plans((256, 256), HALVING)
    check_timm_plans([64, 96], [1, 2, 2, 2, 2, 2, 2])
    assert STRIDES == HALVING


@pytest.mark.parametrize(
    ("patch", "strides", "message"),
    [
        ((16, 64, 64), [[1, 1, 1]] + [[2, 2, 2]] * 5, "2D"),
        ((64, 80), HALVING, "multiples of 32"),
        ((32, 64), HALVING, "at least 64"),
        ((64, 64), HALVING[:5], "five times"),
        ((64, 64), [*HALVING[:4], [1, 2], [2, 2]], "five times"),
    ],
)
def test_plans_that_do_not(patch, strides, message):
    with pytest.raises(ConfigError, match=message):
        check_timm_plans(patch, strides)
