"""DBiSL: its equations on outputs written by hand, where gradients go, options, prediction, pictures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from nnunet_ssl.config import check_known
from nnunet_ssl.distance import distance_to, seg_to_distance
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.losses.dice_ce import binary_dice_ce
from nnunet_ssl.losses.distance import channel_mse, distance_dice_ce
from nnunet_ssl.losses.votes import class_pseudo_loss, region_pseudo_loss, vote_dice
from nnunet_ssl.methods import CONFIGS, dual_task
from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.methods.dbisl import DBiSL, DBiSLConfig
from nnunet_ssl.methods.dual_task import Maps, Transforms, asked_maps, make_maps, mean_weight, vote, watched
from nnunet_ssl.methods.dual_task_pictures import label_map as shown_labels
from nnunet_ssl.methods.supervised import Supervised
from nnunet_ssl.nn.multi_decoder import for_inference
from nnunet_ssl.nn.task_decoders import (
    Branch,
    InterpolatedUpsampling,
    RegressionHead,
    TwoBranchUNet,
    branched_network,
    decode,
    interpolating_decoder,
    mean_logits,
)
from nnunet_ssl.ramps import gaussian_ramp
from nnunet_ssl.training.previews import save_previews
from tests.unit import toy
from tests.unit.toy import (
    SHAPES,
    SPACES,
    Counting,
    as_target,
    as_targets,
    generator,
    gradients,
    label_map,
    make_batch,
    nnunet_loss,
    step,
    stock_network,
    values,
)
from tests.unit.toy import space as label_space

SUPERVISED = ("segmentation", "regression", "cross_regression", "cross_segmentation")
INTRA = ("consistency_segmentation", "consistency_regression")
CROSS = ("consistency_s2r", "consistency_r2s")
WATCHED = ("confident", "confident_foreground", "agreement")
TWO_CLASSES = label_space({"organ": 1, "tumor": 2})
EVERY = (*SUPERVISED, *INTRA, *CROSS, "pseudo", *WATCHED)


def dbisl_method(space, dim=2, deep_supervision=True, batch_dice=False, spacing=None, **options):
    loss = nnunet_loss(space, deep_supervision, batch_dice)
    spacing = spacing or (1.0,) * dim
    return DBiSL(DBiSLConfig(**options), loss, space, deep_supervision, spacing, batch_dice)


def channels_of(space):
    return space.num_prompts + (0 if space.table.has_regions else 1)


def dbisl_network(space, dim=2, deep_supervision=True, regression=True, second=True, mean=False):
    planned = stock_network(channels_of(space), dim, deep_supervision)
    other = interpolating_decoder(stock_network(channels_of(space), dim, seed=1), deep_supervision)
    maps = space.num_prompts if regression else 0
    return branched_network(planned, other if second else None, maps, mean, not space.table.has_regions)


def assert_sound(terms, network):
    toy.assert_sound(terms, network, WATCHED)
    for name in set(WATCHED) & terms.keys():
        assert 0 <= terms[name][0] <= 1


# Equations on outputs written by hand: six voxels in a row, the labelled and the unlabelled sample alike


class Given(nn.Module):
    """A network with these outputs: logits and signed distances of each branch."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = branches

    def forward(self, x, run):
        return [Branch([logits], r) for logits, r in self.branches]


TRUTH = (0, 0, 1, 1, 1, 0)  # so R = -1, -1/2, 1/2, 1, 1/2, -1/2
SURE = (-2.0, -2.0, 2.0, 2.0, 2.0, -2.0)  # log-odds of the first branch
WIDE = (-2.0, 2.0, 2.0, 2.0, 2.0, -2.0)  # and the second: T_s2r = -1, 1/2, 1, 1, 1/2, -1
R_FIRST, R_SECOND = (-0.8, -0.4, 0.6, 0.8, 0.4, -0.6), (-0.9, 0.1, 0.5, 0.9, 0.5, -0.5)
YES, ENTROPY = 1 / (1 + math.exp(-2)), math.log(1 + math.exp(-2))


def row(numbers, dim):
    return torch.tensor(numbers).view(1, 1, *[1] * (dim - 1), 6)


def by_hand(dim=2, count=2, **options):
    """Terms, and the leaves (logits, R) of both branches."""
    space, leaves = SPACES["one_class"], []
    for z, r in ((SURE, R_FIRST), (WIDE, R_SECOND)):
        z, r = (row(v, dim).repeat(count, *[1] * (dim + 1)) for v in (z, r))
        leaves.append((torch.cat([0 * z, z], 1).requires_grad_(), r.requires_grad_()))
    images = torch.zeros(count, 1, *[1] * (dim - 1), 6)
    batch = Batch(images[:1], [row(TRUTH, dim).short()], torch.tensor([0]), images[1:])
    method = dbisl_method(space, dim, deep_supervision=False, **options)
    return step(method, Given(*leaves), batch, progress=1.0), leaves


@pytest.mark.parametrize("dim", [2, 3])
def test_every_term_by_hand(dim):
    got = values(by_hand(dim)[0])
    supervised = nnunet_loss(SPACES["one_class"], deep_supervision=False)
    logits = [torch.cat([0 * row(z, dim), row(z, dim)], 1) for z in (SURE, WIDE)]
    truth = row(TRUTH, dim).short()
    assert got.pop("segmentation") == pytest.approx(sum(supervised(z, truth).item() for z in logits))
    assert got == pytest.approx(
        {
            "regression": (0.12 + 0.38) / 6,  # eq. 6
            "cross_regression": 0 + (1 + 0.25 + 0.25) / 6,  # eq. 7
            "cross_segmentation": 0 + 1 / 7 + 0.005 * 20 / 6,  # one wrong voxel of k R = 20; 1 - Dice = 1/7
            "consistency_segmentation": (2 * YES - 1) ** 2 / 6,  # eq. 9
            "consistency_regression": 0.3 / 6,
            "consistency_s2r": (0.12 + 0.68) / 6,  # eq. 10
            "consistency_r2s": 2 * (1 - YES) ** 2,
            "pseudo": 2 * ENTROPY,  # eq. 14, over the five voxels that all agree on
            "confident": 5 / 6,  # eq. 13
            "confident_foreground": 3 / 4,
            "agreement": 1.0,
        },
        rel=1e-4,
    )


def test_gradient_of_the_pseudo_label_by_hand():
    """(p - label) / voxels of M / samples, none where branches disagree, none to the regression heads."""
    terms, leaves = by_hand()
    for (logits, r), z in zip(leaves, (SURE, WIDE), strict=True):
        gradient, of_r = torch.autograd.grad(
            terms["pseudo"][0], [logits, r], retain_graph=True, allow_unused=True
        )
        label = torch.tensor([0.0, 0, 1, 1, 1, 0])
        expected = (torch.tensor(z).sigmoid() - label) / 5 / 2
        expected[1] = 0
        assert torch.allclose(gradient[:, 1].flatten(1), expected.expand(2, -1), atol=1e-6)
        assert of_r is None


def test_gradient_of_the_cross_regression_by_hand():
    """dL/dp(u) = sum_v K(u - v) (2/6) (T(v) - R(v)) / max S; of the labelled sample's second branch."""
    terms, leaves = by_hand()
    first, second = torch.autograd.grad(terms["cross_regression"][0], [leaves[0][0], leaves[1][0]])
    assert not first.any() and not second[1].any()
    pull, near = (1 / 6, 1 / 12, -1 / 6), math.exp(-1 / 0.35)  # of voxels 1, 2 and 5
    of_p = [
        near * pull[0],
        pull[0] + near * pull[1],
        near * pull[0] + pull[1],
        near * pull[1],
        near * pull[2],
        pull[2],
    ]
    expected = torch.tensor(of_p) * YES * (1 - YES)
    assert torch.allclose(second[0, 1].flatten(), expected, atol=1e-6)


# Which outputs each term teaches (eqs. 6-14)

BOTH, Y, R = {"y", "r"}, {"y"}, {"r"}
LABELED, ALL = {"labeled"}, {"labeled", "unlabeled"}
REACHES = {
    "segmentation": (Y, LABELED),
    "regression": (R, LABELED),
    "cross_regression": (Y, LABELED),
    "cross_segmentation": (R, LABELED),
    "consistency_segmentation": (Y, ALL),
    "consistency_regression": (R, ALL),
    "consistency_s2r": (BOTH, ALL),
    "consistency_r2s": (BOTH, ALL),
    "pseudo": (Y, ALL),
}


def leaf_step(name, dim=2, **options):
    """A step on random outputs that mostly agree: terms, and the leaves of both branches."""
    space, batch = SPACES[name], make_batch(SPACES[name], dim, deep_supervision=False)
    draw, leaves = generator(3), []
    shape = (6, channels_of(space), *SHAPES[dim])
    base = 2 * torch.randn(shape, generator=draw)
    for _ in range(2):
        logits = base + 0.5 * torch.randn(shape, generator=draw)
        own = logits > 0 if space.table.has_regions else (logits == logits.amax(1, keepdim=True))[:, 1:]
        r = 0.03 * (2.0 * own - 1) + 0.02 * torch.randn(own.shape, generator=draw)
        leaves.append((logits.requires_grad_(), r.requires_grad_()))
    method = dbisl_method(space, dim, deep_supervision=False, **options)
    return step(method, Given(*leaves), batch, progress=1.0), leaves


def reached(value, leaves):
    """Which outputs, and which samples of them, get a gradient; the same in both branches."""
    found = []
    for leaf in leaves:
        grads = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
        outputs = {n for n, g in zip(("y", "r"), grads, strict=True) if g is not None and g.any()}
        rows = torch.stack([g.flatten(1).any(1) for g in grads if g is not None]).any(0).tolist()
        assert len(set(rows[:4])) == len(set(rows[4:])) == 1
        found.append((outputs, {n for n, hit in (("labeled", rows[0]), ("unlabeled", rows[4])) if hit}))
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["one_class", "classes", "regions", "ignore", "tasks"])
def test_terms_teach_their_outputs_only(name, dim):
    terms, leaves = leaf_step(name, dim)
    assert {n: reached(terms[n][0], leaves) for n in REACHES} == REACHES


def test_table_5_pseudo_labels_on_unlabelled_images_only():
    terms, leaves = leaf_step("classes", pseudo_on="unlabeled")
    assert reached(terms["pseudo"][0], leaves) == (Y, {"unlabeled"})


@pytest.mark.parametrize("name", ["tasks", "region_tasks"])
def test_maps_of_other_tasks_are_left_alone(name):
    """Labelled samples of task 0, whose map is 0, and of task 1, with the maps 1 and 2, in turn."""
    terms, leaves = leaf_step(name)
    first = 0 if SPACES[name].table.has_regions else 1  # channel of map 0
    for logits, r in leaves:
        grads = torch.autograd.grad(total_loss(terms), [logits, r], retain_graph=True)
        for gradient, offset in zip(grads, (first, 0), strict=True):
            maps = gradient[:, offset:].flatten(2).any(2)
            assert maps[:4].tolist() == [[True, False, False], [False, True, True]] * 2
            assert maps[4:].all()


@pytest.mark.parametrize("name", ["ignore", "regions_ignore", "tasks_ignore"])
def test_ignored_voxels_teach_no_label(name):
    terms, leaves = leaf_step(name)
    for logits, r in leaves:
        of_y = torch.autograd.grad(terms["segmentation"][0], logits, retain_graph=True)[0]
        of_r = sum(
            torch.autograd.grad(terms[n][0], r, retain_graph=True)[0]
            for n in ("regression", "cross_segmentation")
        )
        for gradient in (of_y, of_r):
            assert gradient[:4, ..., :-3].any() and not gradient[:4, ..., -3:].any()


@pytest.mark.parametrize("branch", ["decoder", "second"])
def test_each_head_belongs_to_its_decoder(branch):
    network = dbisl_network(SPACES["classes"])
    images = make_batch(SPACES["classes"]).labeled
    own = dbisl_method(SPACES["classes"]).run(network, images)[("decoder", "second").index(branch)]
    head = {"decoder": "regression", "second": "second_regression"}[branch]
    for output, expected in ((own.segmentation[0], {branch}), (own.regression, {branch, head})):
        names = {
            n.removeprefix("training_only.seg_layers.") for n in gradients(output.square().sum(), network)
        }
        assert {n.split(".")[0] for n in names} == {"encoder"} | expected


def test_unlabelled_terms_depend_on_no_label():
    space = SPACES["classes"]
    network, batch, method = dbisl_network(space), make_batch(space), dbisl_method(space)
    poisoned = replace(batch, targets=[torch.randint_like(t, 4) for t in batch.targets])
    clean, other = (values(step(method, network, b)) for b in (batch, poisoned))
    assert {n for n in clean if clean[n] == other[n]} == {*INTRA, *CROSS, "pseudo", *WATCHED}


# Any kind of data


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_kinds_of_targets_in_one_call(name, deep_supervision):
    network = Counting(dbisl_network(SPACES[name], deep_supervision=deep_supervision))
    method = dbisl_method(SPACES[name], deep_supervision=deep_supervision)
    terms = step(method, network, make_batch(SPACES[name], deep_supervision=deep_supervision))
    assert network.calls == 1
    assert tuple(terms) == EVERY
    assert_sound(terms, network.network)


@pytest.mark.parametrize("form", ["exact", "convolution"])
@pytest.mark.parametrize("name", ["one_class", "classes", "regions_ignore"])
def test_three_dimensions(name, form):
    network = dbisl_network(SPACES[name], 3)
    method = dbisl_method(SPACES[name], 3, distance_form=form, spacing=(3.0, 1.0, 1.0))
    assert_sound(step(method, network, make_batch(SPACES[name], 3)), network)


@pytest.mark.parametrize("form", ["exact", "convolution"])
@pytest.mark.parametrize("value", ["background", "foreground", "ignored"])
@pytest.mark.parametrize("name", ["ignore", "regions_ignore", "one_class_ignore"])
def test_patches_of_one_label(name, value, form):
    space = SPACES[name]
    label = {"background": 0, "foreground": 1, "ignored": space.ignore_label}[value]
    labels = label_map(space, [0] * 4, SHAPES[2]).fill_(label)
    network, batch = dbisl_network(space), replace(make_batch(space), targets=as_targets(space, labels))
    terms = step(dbisl_method(space, distance_form=form), network, batch)
    assert_sound(terms, network)
    if value == "ignored":
        assert terms["regression"][0] == terms["cross_regression"][0] == 0


@pytest.mark.parametrize("form", ["exact", "convolution"])
@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("intensity", [None, 0.0, 1e4])
def test_empty_and_full_predictions_and_constant_images(channel, intensity, form):
    space = SPACES["classes"]
    network, batch = dbisl_network(space), make_batch(space)
    with torch.no_grad():
        for decoder in (network.decoder, network.extra("second")):
            decoder.seg_layers[-1].bias[channel] += 1e3
    if intensity is not None:
        batch.labeled.fill_(intensity)
        batch.unlabeled.fill_(intensity)
    assert_sound(step(dbisl_method(space, distance_form=form), network, batch), network)


@pytest.mark.parametrize("name", ["tasks_ignore", "regions"])
def test_mixed_precision(name):
    network, batch, method = dbisl_network(SPACES[name]), make_batch(SPACES[name]), dbisl_method(SPACES[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step(method, network, batch)
    assert_sound(terms, network)
    assert all(value.dtype == torch.float32 for value, _ in terms.values())


def test_nothing_is_random_and_input_is_left_alone():
    network, method = dbisl_network(SPACES["tasks"]), dbisl_method(SPACES["tasks"])
    batch, twin = make_batch(SPACES["tasks"]), make_batch(SPACES["tasks"])
    before = torch.random.get_rng_state()
    assert values(step(method, network, batch, seed=1)) == values(step(method, network, batch, seed=2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(batch.labeled, twin.labeled) and torch.equal(batch.unlabeled, twin.unlabeled)
    assert all(torch.equal(a, b) for a, b in zip(batch.targets, twin.targets, strict=True))


# Options: Tables 4, 5, 9 and 13

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
    assert config.distance_ce_weight == 1 / config.distance_k
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


# Labels, maps and votes


@pytest.mark.parametrize("name", ["classes", "regions"])
def test_distance_labels_are_those_of_each_foreground_in_the_spacing(name):
    space, spacing = SPACES[name], (3.0, 1.0)
    labels = label_map(space, [0, 0], SHAPES[2])
    target, y = (
        as_target(space, labels),
        torch.rand(2, 3, space.num_prompts, *SHAPES[2], generator=generator()),
    )
    distances = Transforms(DBiSLConfig(), spacing).of_step(y, target, space)
    assert distances.known is None and distances.of_y.shape == y.shape
    assert torch.allclose(distances.of_y[1, 2], seg_to_distance(y[1, 2:3], spacing=spacing)[0])
    for k, prompt in enumerate(space.table.prompts):
        own = torch.tensor(prompt.value if isinstance(prompt.value, tuple) else (prompt.value,))
        mask = torch.isin(labels[:, 0].long(), own)
        inner, outer = distance_to(~mask, spacing), distance_to(mask, spacing)
        expected = inner / inner.amax((1, 2), keepdim=True) - outer / outer.amax((1, 2), keepdim=True)
        assert torch.allclose(distances.labels[:, k], expected, atol=1e-6)


def test_maps_of_another_task_are_0_and_take_nothing_from_the_others():
    space, tasks = SPACES["tasks"], torch.tensor([0, 1])
    logits = torch.randn(3, 4, 5, 5, generator=generator())
    maps = make_maps([Branch([logits], None)], space, tasks)
    assert maps.asked.tolist() == [[True, False, False], [False, True, True], [True] * 3]
    assert maps.r is None and not maps.y[0, 0, 1:].any() and not maps.y[0, 1, :1].any()
    assert torch.allclose(maps.y[0, 0, 0], logits[0, :2].softmax(0)[1])
    assert torch.allclose(maps.y[0, 2], logits[2].softmax(0)[1:])
    mean = mean_weight(maps.asked)
    assert mean.sum().item() == pytest.approx(1) and mean[1].tolist() == pytest.approx([0, 1 / 6, 1 / 6])
    assert torch.equal(asked_maps(space, tasks, 3), maps.asked)


def votes_of(space, y, r):
    """Outcome of one voxel per column: y (A, channels, voxels) probabilities, r (A, K, voxels)."""
    y, r = torch.tensor(y)[:, None, :, None], torch.tensor(r)[:, None, :, None]
    log = torch.logit(y) if space.table.has_regions else y.log()
    own = y if space.table.has_regions else y[:, :, 1:]
    maps = Maps(log, own, r, torch.ones(1, space.num_prompts, dtype=torch.bool))
    return maps, *vote(maps, space)


def test_unanimous_consent_of_classes():
    """Background; class 1; class 1 but one R; nobody sure of anything; two regressions that claim a voxel."""
    first = [[0.8, 0.2, 0.2, 0.4, 0.2], [0.1, 0.7, 0.7, 0.3, 0.7], [0.1, 0.1, 0.1, 0.3, 0.1]]
    space = TWO_CLASSES
    r = [[-0.2, 0.2, 0.2, -0.2, 0.2], [-0.2, -0.2, -0.2, -0.2, 0.2]]
    other = [[-0.2, 0.2, -0.2, -0.2, 0.2], [-0.2, -0.2, -0.2, -0.2, 0.2]]
    maps, votes, confident = votes_of(space, [first, first], [r, other])
    assert votes.shape == (4, 1, 2, 1, 5)
    assert confident.flatten().tolist() == [True, True, False, False, False]
    curves = values(watched(maps, votes, confident))
    assert curves["confident"] == pytest.approx(2 / 5)
    # by map and voxel: all agree on one; claimed are 1, 2 and 4 of map 1 and 4 of map 2
    assert curves["confident_foreground"] == pytest.approx(2 / 4)


def test_unanimous_consent_of_regions_is_by_region():
    y, r = [[0.9, 0.2, 0.9], [0.1, 0.2, 0.9]], [[0.3, -0.3, -0.3], [-0.3, -0.3, 0.3]]
    maps, votes, confident = votes_of(SPACES["regions"], [y, y], [r, r])
    assert confident[0, :, 0].tolist() == [[True, True, False], [True, True, True]]
    assert watched(maps, votes, confident)["confident"][0].item() == pytest.approx(5 / 6)


def test_regions_nobody_asks_for_do_not_count():
    space = SPACES["region_tasks"]
    y = torch.full((2, 2, 3, 4, 4), 0.9)
    maps = Maps(torch.logit(y), y, y, asked_maps(space, torch.tensor([0]), 2))
    votes, confident = vote(maps, space)
    assert confident.flatten(2).all(2).tolist() == [[True, False, False], [True, True, True]]
    assert {n: v.item() for n, (v, _) in watched(maps, votes, confident).items()} == dict.fromkeys(
        WATCHED, 1.0
    )


# Losses on their own


def test_channel_mse_by_hand_and_its_gradient():
    p, q = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]]).double(), torch.zeros(1, 2, 1, 2).double()
    weight = torch.tensor([[0.5, 0.25]])
    assert channel_mse(p, q, weight).item() == pytest.approx(0.5 * 2.5 + 0.25 * 17)
    valid = torch.tensor([[[[True, False]], [[False, False]]]])
    assert channel_mse(p, q, weight, valid).item() == pytest.approx(0.5)
    assert torch.autograd.gradcheck(
        lambda a, b: channel_mse(a, b, weight), (p.requires_grad_(), q.requires_grad_())
    )


def test_distance_dice_ce():
    z = torch.randn(3, 4, 5, generator=generator(), dtype=torch.float64, requires_grad=True)
    y = torch.rand(3, 4, 5, generator=generator(1)) < 0.4
    valid, weight = torch.rand(3, 4, 5, generator=generator(2)) < 0.7, torch.tensor([0.5, 0.3, 0.2])
    for group in (None, torch.tensor([0, 1, 0])):
        whole = distance_dice_ce(z, y, weight, 1.0, valid, group)
        assert whole.item() == pytest.approx(binary_dice_ce(z, y, weight, valid, group).item())
        dice, some = (distance_dice_ce(z, y, weight, w, valid, group).item() for w in (0.0, 0.005))
        assert some == pytest.approx(dice + 0.005 * (whole.item() - dice))
    assert torch.autograd.gradcheck(lambda t: distance_dice_ce(t, y, weight, 0.1, valid), z)


def test_the_cross_entropy_of_k_r_pulls_as_hard_as_that_of_a_logit():
    r, z = torch.zeros(1, 8, requires_grad=True), torch.zeros(1, 8, requires_grad=True)
    y, weight, config = torch.ones(1, 8), torch.ones(1), DBiSLConfig()

    def pull(leaf, log_odds, ce_weight):
        with_ce, without = (distance_dice_ce(log_odds, y, weight, w) for w in (ce_weight, 0.0))
        return torch.autograd.grad(with_ce - without, leaf)[0]

    assert torch.allclose(pull(r, config.distance_k * r, config.distance_ce_weight), pull(z, z * 1, 1.0))


def test_pseudo_losses_by_hand():
    """Two branches, two samples of two voxels; the second sample has no confident voxel."""
    p = torch.tensor([[[0.2, 0.6], [0.8, 0.4]], [[0.4, 0.6], [0.6, 0.4]]])  # (A, class, voxel)
    log = p.log()[:, None, :, None].repeat(1, 2, 1, 1, 1)
    confident = torch.tensor([[[True, True]], [[False, False]]])
    expected = -(math.log(0.8) + math.log(0.6) + 2 * math.log(0.6)) / 2 / 2
    assert class_pseudo_loss(log, confident).item() == pytest.approx(expected)
    assert class_pseudo_loss(log, confident & False).item() == 0
    logits = torch.logit(p[:, 1])[:, None, None, None].repeat(1, 2, 1, 1, 1)  # the same as one region
    assert region_pseudo_loss(logits, confident[:, None]).item() == pytest.approx(expected)


def test_vote_dice():
    one, other = (
        torch.tensor([[[1, 1, 0]], [[0, 0, 0]]]).bool(),
        torch.tensor([[[0, 1, 0]], [[0, 0, 0]]]).bool(),
    )
    weight = torch.tensor([[1.0], [3.0]])
    assert vote_dice(one, other, weight).item() == pytest.approx((2 / 3 + 3) / 4)  # two empty votes agree


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


def prediction_of(space, dim, mean):
    """A trained network and what prediction builds and loads of it."""
    network = dbisl_network(space, dim, mean=mean).eval()
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
def test_prediction_is_the_first_branch_or_the_mean(mean, name, dim):
    space, x = SPACES[name], torch.randn(2, 1, *SHAPES[dim], generator=generator())
    network, predicting = prediction_of(space, dim, mean)
    to_probability = torch.sigmoid if space.table.has_regions else lambda z: z.softmax(1)
    branches = dbisl_method(space, dim).run(network, x)
    first, second = (to_probability(b.segmentation[0]) for b in branches)
    assert not torch.allclose(first, second, atol=1e-2)
    expected = (first + second) / 2 if mean else first
    for net in (network, predicting):
        assert torch.allclose(to_probability(net(x)), expected, atol=1e-5)
    assert not any("regression" in n for n, _ in predicting.named_parameters())
    if not mean:  # stock nnU-Net's network
        stock = stock_network(channels_of(space), dim, seed=8)
        assert type(predicting) is type(stock) and predicting.state_dict().keys() == stock.state_dict().keys()


def test_the_mean_with_deep_supervision_and_its_planned_size():
    network, x = dbisl_network(SPACES["classes"], mean=True).eval(), torch.randn(1, 1, *SHAPES[2])
    outputs = network(x)
    stock = stock_network(4).eval()
    assert [o.shape for o in outputs] == [o.shape for o in stock(x)]
    branches = dbisl_method(SPACES["classes"]).run(network, x)
    for i, o in enumerate(outputs):
        expected = sum(b.segmentation[i].softmax(1) for b in branches) / 2
        assert torch.allclose(o.softmax(1), expected, atol=1e-5)
    assert isinstance(network, TwoBranchUNet)
    one = dbisl_network(SPACES["classes"]).compute_conv_feature_map_size((16, 16))
    assert (
        one == stock.compute_conv_feature_map_size((16, 16)) < network.compute_conv_feature_map_size((16, 16))
    )


@pytest.mark.parametrize("has_background", [True, False])
def test_mean_logits_of_branches_that_are_sure_of_the_opposite(has_background):
    a, b = torch.tensor([[200.0, -200.0]]).view(1, 2, 1, 1), torch.tensor([[-200.0, 200.0]]).view(1, 2, 1, 1)
    mean = mean_logits(a.half(), b.half(), has_background)
    probability = mean.softmax(1) if has_background else torch.sigmoid(mean)
    assert mean.dtype == torch.float32 and torch.isfinite(mean).all()
    assert torch.allclose(probability, torch.full_like(probability, 0.5))


# Pictures


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["classes", "regions_ignore", "tasks"])
def test_preview(name, dim, tmp_path):
    space = SPACES[name]
    network, batch, method = (
        dbisl_network(space, dim).eval(),
        make_batch(space, dim),
        dbisl_method(space, dim),
    )
    with torch.no_grad():
        strips = method.preview(network, batch, generator())
    rest = ["segmentation", "distance", "T_s2r", "T_r2s", "confident"]
    assert [[p.title for p in s] for s in strips] == [["labelled", "truth", *rest], ["unlabelled", *rest]]
    for strip, image in zip(strips, (batch.labeled, batch.unlabeled), strict=True):
        shown = {p.title: p.values for p in strip}
        assert all(v.shape == SHAPES[dim] for v in shown.values())
        assert torch.equal(strip[0].values, image[0, 0])
        assert torch.equal(shown["T_r2s"] > 0.5, shown["distance"] > 0)
    assert torch.equal(strips[0][1].values, shown_labels(space, batch.targets[0][:1])[0])
    save_previews(strips, tmp_path / "strip.png")
    assert (tmp_path / "strip.png").is_file()


def test_preview_without_regression_or_unlabelled_images():
    space, batch = SPACES["classes"], replace(make_batch(SPACES["classes"]), unlabeled=None)
    network = dbisl_network(space, regression=False).eval()
    with torch.no_grad():
        strips = dbisl_method(space, regression_task=False).preview(network, batch, generator())
    assert [[p.title for p in s] for s in strips] == [["labelled", "truth", "segmentation", "confident"]]


def test_a_picture_of_regions_shows_the_innermost():
    labels = label_map(SPACES["regions"], [0], SHAPES[2])
    expected = torch.tensor([0, 1, 2])[labels[:, 0].long()]  # whole holds 1 and 2, core holds 2
    assert torch.equal(shown_labels(SPACES["regions"], as_targets(SPACES["regions"], labels)[0]), expected)
