"""DBiSL: options, the ablations of Tables 4, 5, 9 and 13 among them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nnunet_ssl.config import check_known
from nnunet_ssl.distance import seg_to_distance
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.methods import CONFIGS, dual_task
from nnunet_ssl.methods.base import total_loss
from nnunet_ssl.methods.dbisl import DBiSLConfig
from nnunet_ssl.methods.dual_task import Transforms
from nnunet_ssl.methods.supervised import Supervised
from nnunet_ssl.ramps import gaussian_ramp
from tests.unit.dbisl_parts import (
    CROSS,
    EVERY,
    INTRA,
    SUPERVISED,
    WATCHED,
    assert_sound,
    dbisl_method,
    dbisl_network,
)
from tests.unit.toy import SHAPES, SPACES, generator, gradients, make_batch, nnunet_loss, step, values

WITHOUT = {
    "reg_task": ({"regression_task": False}, {*SUPERVISED[1:], INTRA[1], *CROSS, "agreement"}),
    "pse_sup": ({"weight_pseudo": 0.0}, {"pseudo"}),
    "ct_sup": ({"weight_cross_supervision": 0.0}, set(SUPERVISED[2:])),
    "all_con": ({"weight_intra_consistency": 0.0, "weight_cross_consistency": 0.0}, {*INTRA, *CROSS}),
    "ct_con": ({"weight_cross_consistency": 0.0}, set(CROSS)),
    "it_con": ({"weight_intra_consistency": 0.0}, set(INTRA)),
    "S2R alone": ({"cross_direction": "s2r"}, {"cross_segmentation", "consistency_r2s"}),
    "R2S alone": ({"cross_direction": "r2s"}, {"cross_regression", "consistency_s2r"}),
    "one decoder": ({"second_decoder": False}, set(INTRA)),
    "regression": ({"weight_regression": 0.0}, {"regression"}),
}


@pytest.mark.parametrize("name", ["classes", "regions_ignore"])
@pytest.mark.parametrize(("options", "gone"), WITHOUT.values(), ids=WITHOUT)
def test_tables_4_and_13(options, gone, name):
    space = SPACES[name]
    kept = [t for t in EVERY if t not in gone]
    heads = {
        "regression": options.get("regression_task", True),
        "second": options.get("second_decoder", True),
    }
    network, batch = dbisl_network(space, **heads), make_batch(space)
    terms = step(dbisl_method(space, **options), network, batch)
    assert list(terms) == kept
    assert_sound(terms, network)
    full = step(dbisl_method(space), dbisl_network(space), batch)
    if "second_decoder" not in options and "regression_task" not in options:
        assert values(terms) == pytest.approx({n: full[n][0].item() for n in kept}, rel=1e-5)
    unreached = {n for n, _ in network.named_parameters()} - set(gradients(total_loss(terms), network))
    assert all("seg_layers.0." in n for n in unreached)  # the lowest resolution has nnU-Net's weight 0


@pytest.mark.parametrize("form", ["exact", "convolution"])
@pytest.mark.parametrize("scale", [0.5, 0.3, 0.1])
def test_table_9_lower_resolutions(scale, form):
    network, batch = dbisl_network(SPACES["classes"]), make_batch(SPACES["classes"])
    terms = step(dbisl_method(SPACES["classes"], distance_scale=scale, distance_form=form), network, batch)
    assert tuple(terms) == EVERY
    assert_sound(terms, network)


def test_options_reach_the_transforms():
    y = (torch.rand(2, 1, 12, 12, generator=generator()) < 0.3).float()
    spacing = (2.0, 1.0)
    options = {"distance_scale": 0.5, "distance_band": 3.0}
    got = Transforms(DBiSLConfig(**options), spacing).s2r(y)
    assert torch.equal(got, seg_to_distance(y, 0.5, spacing=spacing, band=3.0))
    config = DBiSLConfig(distance_form="convolution", distance_kernel_size=5, distance_h=0.3, distance_k=30.0)
    transforms = Transforms(config, spacing)  # counts voxels: a spacing is no error
    assert torch.equal(transforms.s2r(y), seg_to_distance(y, form="convolution", kernel_size=5, h=0.3))
    assert torch.allclose(transforms.r2s(y), torch.sigmoid(30 * y))
    assert torch.equal(transforms.r2s_logits(y), 30 * y)


@pytest.mark.parametrize(("direction", "rows"), [("both", 2 * 6 + 4), ("s2r", 2 * 6 + 4), ("r2s", 4)])
def test_all_transforms_of_a_step_are_one_batch(direction, rows, monkeypatch):
    seen, real = [], dual_task.seg_to_distance
    monkeypatch.setattr(
        dual_task, "seg_to_distance", lambda y, *a, **k: seen.append(y.shape) or real(y, *a, **k)
    )
    space = SPACES["classes"]
    step(dbisl_method(space, cross_direction=direction), dbisl_network(space), make_batch(space))
    assert seen == [(rows, 3, *SHAPES[2])]


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.35, 1.0])
def test_weights_and_ramp(progress):
    space = SPACES["classes"]
    network, batch = dbisl_network(space), make_batch(space)
    terms = step(dbisl_method(space), network, batch, progress=progress)
    beta = gaussian_ramp(progress, 0.35)
    assert beta == pytest.approx(math.exp(-5 * max(1 - progress / 0.35, 0) ** 2))
    expected = (
        dict.fromkeys((*SUPERVISED, *INTRA, *CROSS), 0.5) | {"pseudo": beta} | dict.fromkeys(WATCHED, 0.0)
    )
    assert {n: w for n, (_, w) in terms.items()} == pytest.approx(expected)
    weights = (
        ("regression", 2.0),
        ("cross_supervision", 3.0),
        ("intra_consistency", 4.0),
        ("cross_consistency", 5.0),
    )
    options = {f"weight_{n}": w for n, w in weights} | {
        "weight_sup_con": 0.1,
        "weight_pseudo": 0.3,
        "ramp_length": 0.0,
    }
    got = {
        n: w for n, (_, w) in step(dbisl_method(space, **options), network, batch, progress=progress).items()
    }
    scaled = [0.1, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.3]
    assert [got[n] for n in EVERY[:9]] == pytest.approx(scaled)


def test_defaults_are_the_papers():
    config = DBiSLConfig()
    assert (config.weight_sup_con, config.weight_pseudo, config.ramp_length) == (0.5, 1.0, 0.35)
    assert (config.distance_kernel_size, config.distance_h, config.distance_k) == (3, 0.35, 200.0)
    assert config.pseudo_on == "all" and config.cross_direction == "both"
    assert config.cross_entropy_weight == 1 / config.distance_k == 0.005
    assert DBiSLConfig(distance_k=40).cross_entropy_weight == 1 / 40
    assert DBiSLConfig(distance_ce_weight=0.5).cross_entropy_weight == 0.5
    assert DBiSLConfig in CONFIGS
    check_known(["weight_sup_con", "distance_scale", "inference_branches", "ramp_length"], CONFIGS)


@pytest.mark.parametrize(
    "options",
    [
        {"weight_pseudo": 0.0, "weight_intra_consistency": 0.0, "weight_cross_consistency": 0.0},
        {"weight_pseudo": 0.0, "second_decoder": False, "regression_task": False},
    ],
)
def test_without_unlabelled_terms_no_unlabelled_data_is_asked_for(options):
    space = SPACES["classes"]
    method = dbisl_method(space, **options)
    heads = {
        "regression": options.get("regression_task", True),
        "second": options.get("second_decoder", True),
    }
    batch = replace(make_batch(space), unlabeled=None)
    terms = step(method, dbisl_network(space, **heads), batch)
    assert not method.uses_unlabeled and "pseudo" not in terms


def test_missing_unlabelled_images_are_named():
    batch = replace(make_batch(SPACES["classes"]), unlabeled=None)
    with pytest.raises(ValueError, match="unlabelled images"):
        step(dbisl_method(SPACES["classes"]), dbisl_network(SPACES["classes"]), batch)


def test_one_branch_without_its_second_task_is_the_supervised_baseline():
    space = SPACES["classes"]
    options = {"weight_pseudo": 0.0, "regression_task": False, "second_decoder": False, "weight_sup_con": 1.0}
    network, batch = dbisl_network(space, regression=False, second=False), make_batch(space)
    mine = total_loss(step(dbisl_method(space, **options), network, batch))
    theirs = total_loss(step(Supervised(nnunet_loss(space), space, True), network, batch))
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize(
    "option",
    [
        {"weight_sup_con": 0.0},
        {"weight_pseudo": -1.0},
        {"ramp_length": 1.5},
        {"distance_scale": 0.0},
        {"distance_scale": 2.0},
        {"distance_kernel_size": 4},
        {"distance_kernel_size": 1},
        {"distance_h": 0.0},
        {"distance_k": float("nan")},
        {"distance_ce_weight": -0.1},
        {"distance_band": 0.0},
        {"inference_branches": "mean", "second_decoder": False},
        {"regression_task": True, "weight_regression": 0.0, "weight_cross_supervision": 0.0}
        | {"weight_intra_consistency": 0.0, "weight_cross_consistency": 0.0},
        {"regression_task": True, "weight_regression": 0.0, "cross_direction": "s2r"}
        | {"weight_intra_consistency": 0.0, "weight_cross_consistency": 0.0},
    ],
)
def test_options_that_cannot_be(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        DBiSLConfig(**option)


@pytest.mark.parametrize(("dim", "h"), [(3, 0.42), (2, 0.6)])
def test_a_kernel_in_which_holes_vanish_is_refused(dim, h):
    with pytest.raises(ConfigError, match="holes of one voxel vanish"):
        dbisl_method(SPACES["one_class"], dim, distance_form="convolution", distance_h=h)
    dbisl_method(SPACES["one_class"], dim, distance_h=h)  # of no concern to the exact form
