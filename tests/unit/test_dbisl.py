"""DBiSL: its equations on outputs written by hand, where gradients go, any kind of data."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.nn.task_decoders import Branch
from tests.unit.dbisl_parts import (
    CROSS,
    EVERY,
    INTRA,
    WATCHED,
    assert_sound,
    channels_of,
    dbisl_method,
    dbisl_network,
)
from tests.unit.toy import (
    SHAPES,
    SPACES,
    Counting,
    as_targets,
    generator,
    gradients,
    label_map,
    make_batch,
    nnunet_loss,
    step,
    values,
)

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


def test_a_perfect_prediction_pays_nothing_beside_ignored_voxels():
    """A large organ where the labels ignore everything would set the scale of the prediction's map alone."""
    space = SPACES["one_class_ignore"]
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 4:9, 4:9] = 1
    truth[..., 2:30, 14:30] = 1
    labels = truth.clone()
    labels[..., 12:] = space.ignore_label
    y = truth[None].clone().requires_grad_()
    distances = dbisl_method(space).transforms.of_step(y, labels, space)
    assert 0 < distances.known[..., :12].sum() < distances.known.numel()
    torch.testing.assert_close(distances.of_labeled[0], distances.labels)
    assert not torch.allclose(distances.of_y[0][distances.known], distances.labels[distances.known])
    gradient = torch.autograd.grad(distances.of_labeled.square().sum(), y)[0]
    assert gradient[..., :12].any() and not gradient[..., 12:].any()


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
