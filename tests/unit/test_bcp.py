"""Bidirectional copy-paste on toy networks: mixes, masked losses, pseudo-labels, warm-up and teacher."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.methods import bcp
from nnunet_ssl.methods.base import total_loss
from nnunet_ssl.methods.bcp import BCP, BCPConfig, largest_components
from nnunet_ssl.nn.ema import STUDENT, TEACHER, num_updates, teacher_and_student, update_teacher
from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY
from tests.unit.toy import (
    SHAPES,
    SPACES,
    Counting,
    as_target,
    dice_ce,
    downsample,
    generator,
    gradients,
    label_map,
    make_batch,
    nnunet_loss,
    step,
    stock_network,
    values,
)

TASKS, ORGAN = SPACES["tasks"], SPACES["one_class"]
HALF = SHAPES[2][1] // 2


def method(space=TASKS, deep_supervision=True, **options):
    loss = nnunet_loss(space.with_ignore_label(), deep_supervision)
    full_loss = loss.loss if deep_supervision else loss
    return BCP(BCPConfig(**options), loss, full_loss, space, deep_supervision)


def networks(space=TASKS, dim=2, deep_supervision=True):
    """Student and teacher that differ, in the midst of self-training."""
    channels = space.num_prompts + (0 if space.table.has_regions else 1)
    first, second = (stock_network(channels, dim, deep_supervision, seed=seed) for seed in (0, 1))
    pair = teacher_and_student(first, second, STUDENT)
    update_teacher(pair, 0.9)
    return pair


NAMES = ["labeled", "unlabeled", "foreground_unlabeled"]


def assert_sound(terms, network):
    for name, (value, weight) in terms.items():
        assert value.ndim == 0 and torch.isfinite(value) and value.dtype == torch.float32, name
        if weight:
            assert all(torch.isfinite(g).all() for g in gradients(value, network).values()), name
    assert torch.isfinite(total_loss(terms))


# Every kind of data, before and after the warm-up


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_kinds_of_targets(name, deep_supervision):
    space = SPACES[name]
    network = Counting(networks(space, 2, deep_supervision))
    batch = make_batch(space, deep_supervision=deep_supervision)
    terms = step(method(space, deep_supervision), network, batch)
    assert list(terms) == NAMES and [w for _, w in terms.values()] == [1.0, 0.5, 0.0]
    assert_sound(terms, network)
    terms = step(method(space, deep_supervision), network, replace(batch, unlabeled=None), progress=0.1)
    assert list(terms) == ["labeled"]
    assert_sound(terms, network)
    assert network.calls == 2  # one an update


@pytest.mark.parametrize(("tasks", "unlabeled"), [([0], 1), ([1], 3), ([0, 1, 1], 1), ([0, 1], 2)])
@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_three_dimensions_and_batch_sizes(tasks, unlabeled, progress):
    network = networks(dim=3)
    batch = make_batch(TASKS, 3, tasks=tasks, unlabeled=unlabeled)
    assert_sound(step(method(), network, batch, progress=progress), network)


@pytest.mark.parametrize("name", ["one_class", "tasks_ignore", "regions_ignore"])
@pytest.mark.parametrize("value", ["background", "foreground", "ignored"])
def test_patches_of_one_label(name, value):
    space = SPACES[name]
    label = {"background": 0, "foreground": 1, "ignored": space.ignore_label or 0}[value]
    labels = label_map(space, [0, 0], SHAPES[2]).fill_(label)
    targets = [downsample(as_target(space, labels), s) for s in (1, 0.5, 0.25)]
    batch, network = replace(make_batch(space, tasks=[0, 0]), targets=targets), networks(space)
    for progress in (0.0, 0.5):
        assert_sound(step(method(space), network, batch, progress=progress), network)


@pytest.mark.parametrize("name", ["one_class", "regions"])
def test_pseudo_labels_are_judged_in_full_precision(name):
    # nothing is taught in a whole image: in half precision the gradient of Dice, 1 / smooth, would overflow
    seen, made = [], method(SPACES[name], bcp_largest_component=False)
    inner = made.full_loss
    made.full_loss = lambda output, target: seen.append(output.dtype) or inner(output, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step(made, networks(SPACES[name]), make_batch(SPACES[name]))
    assert seen == [torch.float32] * 2


def test_constant_images_and_mixed_precision():
    network, batch = networks(), make_batch(TASKS)
    exact = values(step(method(), network, batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step(method(), network, batch)
    assert_sound(terms, network)
    assert values(terms)["labeled"] == pytest.approx(exact["labeled"], rel=0.05, abs=0.02)
    batch.labeled.fill_(0)
    batch.unlabeled.fill_(1e4)
    assert_sound(step(method(), network, batch), network)


def test_compiled():
    network, batch = networks(), make_batch(TASKS)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="eager")
    for progress in (0.0, 0.5):
        expected = values(step(method(), network, batch, progress=progress))
        assert values(step(method(), compiled, batch, progress=progress)) == pytest.approx(expected, rel=1e-5)


# The equations, on given outputs: the left half of the patch is the box


def left_half(kind, count, shape, ratio, draw, ratio_of):
    assert (kind, ratio, ratio_of) == ("box", (2 / 3, 2 / 3), "side")
    mask = torch.ones(count, 1, *shape)
    mask[..., : shape[-1] // 2] = 0
    return mask


class Stub(nn.Module):
    """Student and teacher that answer with given logits; it remembers what the student saw."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def encoder(self, x):
        self.seen = x
        return x

    def decoder(self, x):
        return self.student[: len(x)]

    def extra(self, name):
        assert name == TEACHER
        return lambda x: self.teacher[: len(x)]

    def forward(self, x, run=None):
        return self.decoder(self.encoder(x)) if run is None else run(self, x)


def two_channels(z):
    """Softmax of (0, z) is sigmoid(z)."""
    return torch.cat([torch.zeros_like(z), z], dim=1)


@pytest.fixture
def stubbed(monkeypatch):
    monkeypatch.setattr(bcp, "sample_masks", left_half)
    monkeypatch.setattr(bcp, "start_other", lambda network: None)

    def make(space=ORGAN, tasks=(0, 0), **options):
        batch = make_batch(space, tasks=list(tasks), deep_supervision=False)
        z = [3 * torch.randn(4, space.num_prompts, *SHAPES[2], generator=generator(s)) for s in (7, 8)]
        if space is ORGAN:
            z = [two_channels(x) for x in z]
        elif not space.table.has_regions:
            z = [torch.cat([torch.zeros_like(x[:, :1]), x], dim=1) for x in z]
        stub = Stub(z[0].requires_grad_(), z[1])
        options = {"bcp_largest_component": False, "bcp_probability": 1.0, **options}
        taught = method(space, deep_supervision=False, **options)
        return taught, stub, batch

    return make


LABELED, UNLABELED = (0, 1, 1, 0), (0, 1, 0, 1)  # of which samples the four mixes of 2 + 2 consist


def known_voxels(count=4):
    """(count, *spatial) where truth is known: outside the box in the first half of the mixes, else inside."""
    known = torch.ones(count, *SHAPES[2], dtype=torch.bool)
    known[..., :HALF] = False
    known[count // 2 :] = ~known[count // 2 :]
    return known


def test_inward_and_outward_mixes(stubbed):
    taught, stub, batch = stubbed()
    step(taught, stub, batch)
    for n, known in enumerate(known_voxels()):  # x_i M + x_p (1 - M)
        expected = torch.where(known, batch.labeled[LABELED[n]], batch.unlabeled[UNLABELED[n]])
        assert torch.equal(stub.seen[n], expected)
    assert len(stub.seen) == 4


@pytest.mark.parametrize(("labeled", "unlabeled"), [(1, 1), (2, 2), (1, 3), (3, 2)])
def test_every_sample_is_pasted_both_ways(stubbed, labeled, unlabeled):
    taught, stub, _ = stubbed()
    stub.student = stub.teacher = torch.randn(8, 2, *SHAPES[2], requires_grad=True)
    batch = make_batch(ORGAN, deep_supervision=False, tasks=[0] * labeled, unlabeled=unlabeled)
    for n, image in enumerate((*batch.labeled, *batch.unlabeled)):
        image.fill_(n)
    step(taught, stub, batch)
    for half in stub.seen.chunk(2):
        assert set(half.flatten().tolist()) == set(range(labeled + unlabeled))


def test_losses_by_hand(stubbed):
    """Weight 1 where truth is known, alpha where the teacher labels; nnU-Net's Dice loss is -Dice."""
    taught, stub, batch = stubbed(weight_unlabeled=0.3)
    terms = step(taught, stub, batch)
    z, truth, known = stub.student[:, 1], batch.targets[0][:, 0] == 1, known_voxels()
    pseudo = stub.teacher[:2, 1] > 0
    labeled = [dice_ce(z[n], truth[LABELED[n]], known[n]) - 1 for n in range(4)]
    unlabeled = [dice_ce(z[n], pseudo[UNLABELED[n]], ~known[n]) - 1 for n in range(4)]
    assert terms["labeled"][0].item() == pytest.approx(sum(labeled) / 4, rel=1e-5)
    assert terms["unlabeled"][0].item() == pytest.approx(sum(unlabeled) / 4, rel=1e-5)
    assert terms["foreground_unlabeled"][0].item() == pytest.approx(pseudo.float().mean().item())
    expected = (sum(labeled) + 0.3 * sum(unlabeled)) / 4
    assert total_loss(terms).item() == pytest.approx(expected, rel=1e-5)


def test_without_pasting_it_is_supervised_training(stubbed):
    taught, stub, batch = stubbed(bcp_probability=0)
    terms = step(taught, stub, batch)
    assert torch.equal(stub.seen, batch.labeled[list(LABELED)])
    z, truth = stub.student[:, 1], batch.targets[0][:, 0] == 1
    everywhere = torch.ones_like(truth[0])
    expected = [dice_ce(z[n], truth[LABELED[n]], everywhere) - 1 for n in range(4)]
    assert terms["labeled"][0].item() == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert not torch.autograd.grad(terms["unlabeled"][0], stub.student)[0].any()  # nothing is taught
    warm_up = step(taught, stub, batch, progress=0.1)["labeled"][0].item()
    assert torch.equal(stub.seen, batch.labeled)
    expected = [dice_ce(z[n], truth[n], everywhere) - 1 for n in range(2)]
    assert warm_up == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_some_mixes_are_left_whole(stubbed):
    taught, stub, batch = stubbed(bcp_probability=0.5)
    stub.student = stub.teacher = torch.randn(64, 2, *SHAPES[2], requires_grad=True)
    batch = make_batch(ORGAN, deep_supervision=False, tasks=[0] * 32, unlabeled=32)
    step(taught, stub, batch)
    own = batch.labeled[(torch.arange(64) + (torch.arange(64) >= 32)) % 32]
    whole = (stub.seen == own).flatten(1).all(1)
    assert 16 < whole.sum() < 48


def test_each_term_pulls_at_its_own_voxels(stubbed):
    taught, stub, batch = stubbed()
    terms = step(taught, stub, batch)
    of_truth, of_teacher = (
        torch.autograd.grad(terms[name][0], stub.student, retain_graph=True)[0].abs().sum(1) > 0
        for name in NAMES[:2]
    )
    for n, known in enumerate(known_voxels()):
        assert of_truth[n][known].any() and not of_truth[n][~known].any()
        assert of_teacher[n][~known].any() and not of_teacher[n][known].any()


def test_truth_judges_the_channels_of_its_own_task_only(stubbed):
    taught, stub, batch = stubbed(TASKS, tasks=(0, 1))
    terms = step(taught, stub, batch)
    pulled = torch.autograd.grad(terms["labeled"][0], stub.student, retain_graph=True)[0].abs().sum((2, 3))
    channels = {0: [True, True, False, False], 1: [True, False, True, True]}
    assert (pulled > 0).tolist() == [channels[i] for i in LABELED]
    pulled = torch.autograd.grad(terms["unlabeled"][0], stub.student)[0].abs().sum((2, 3))
    assert (pulled > 0).all()


def test_regions_by_hand(stubbed):
    space = SPACES["regions"]
    taught, stub, batch = stubbed(space)
    terms = step(taught, stub, batch)
    expected = []
    for n, known in enumerate(known_voxels()):
        z, truth = stub.student[n], batch.targets[0][LABELED[n]]
        each = [dice_ce(z[r], truth[r], known) - 1 for r in (0, 1)]
        # nnU-Net's masked BCE is summed over regions, not averaged: it divides by the voxels of the mask
        ce = [
            nn.functional.binary_cross_entropy_with_logits(z[r][known], truth[r][known].float()).item()
            for r in (0, 1)
        ]
        expected.append(sum(each) / 2 + sum(ce) / 2)
    assert terms["labeled"][0].item() == pytest.approx(sum(expected) / 4, rel=1e-4)


def test_ignored_voxels_count_nowhere(stubbed):
    space = SPACES["one_class_ignore"]
    taught, stub, batch = stubbed(space)
    ignored = (batch.targets[0] == 2)[list(LABELED)]
    assert ignored.any()
    before = values(step(taught, stub, batch))
    with torch.no_grad():
        stub.student[:, 1:] += 9 * (ignored & known_voxels()[:, None])
    after = values(step(taught, stub, batch))
    assert after["labeled"] == pytest.approx(before["labeled"], rel=1e-6)
    assert after["unlabeled"] == before["unlabeled"]  # what truth ignores, in the labelled part


# Pseudo-labels


@pytest.mark.parametrize("name", ["tasks", "regions"])
def test_unlabeled_term_depends_on_no_label(name):
    space, network = SPACES[name], networks(SPACES[name])
    batch = make_batch(space)
    poisoned = replace(batch, targets=[1 - t.to(torch.int16).clamp(0, 1) for t in batch.targets])
    clean, other = (values(step(method(space), network, b)) for b in (batch, poisoned))
    assert clean["unlabeled"] == other["unlabeled"] and clean["labeled"] != other["labeled"]


def test_the_teacher_labels_and_not_the_student():
    network, batch = networks(), make_batch(TASKS)
    before = values(step(method(), network, batch))
    with torch.no_grad():
        network.extra(TEACHER).decoder.seg_layers[-1].bias += torch.tensor([0.0, 50.0, 0.0, 0.0])
    after = values(step(method(), network, batch))
    assert after["labeled"] == before["labeled"] and after["unlabeled"] != before["unlabeled"]
    assert after["foreground_unlabeled"] == 1.0


def test_no_gradient_reaches_the_teacher():
    network = networks()
    total_loss(step(method(), network, make_batch(TASKS))).backward()
    for name, parameter in network.named_parameters():
        if name.startswith(TRAINING_ONLY):
            assert parameter.grad is None and not parameter.requires_grad, name
        elif name != "decoder.seg_layers.0.weight" and name != "decoder.seg_layers.0.bias":
            assert parameter.grad is not None, name  # the lowest resolution has weight 0 in nnU-Net's loss


A = [[1, 1, 0, 0, 2], [0, 0, 1, 0, 0], [0, 0, 0, 0, 2], [1, 0, 0, 0, 2], [0, 0, 0, 0, 0]]
B = [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 2], [0, 0, 0, 0, 2], [0, 0, 0, 0, 0]]


def test_largest_component_of_each_label_corners_touch():
    kept = largest_components(torch.tensor(A)[None, None])
    assert kept[0, 0].tolist() == B
    assert kept.dtype == torch.int64


def test_components_sample_by_sample_and_region_by_region():
    regions = torch.stack([torch.tensor(A) > 0, torch.tensor(A) == 2])[None].float()
    both = torch.cat([regions, 1 - regions])
    kept = largest_components(both)
    assert torch.equal(kept[0, 0], (torch.tensor(B) == 1).float())
    assert torch.equal(kept[0, 1], (torch.tensor(B) == 2).float())
    assert torch.equal(kept[1], both[1])  # connected already
    assert torch.equal(both[0], regions[0])  # the input is left alone


@pytest.mark.parametrize("shape", [(2, 1, 6, 7), (2, 1, 4, 5, 6)])
def test_components_of_empty_and_full_maps(shape):
    for value in (0, 1, 3):
        full = torch.full(shape, value)
        assert torch.equal(largest_components(full), full)


def test_of_equally_large_components_one_stays():
    specks = torch.zeros(1, 1, 8, 8)
    specks[..., ::3, ::3] = 1
    assert largest_components(specks).sum() == 1 < specks.sum()


def test_components_against_scikit_image():
    from skimage.measure import label

    noise = torch.rand(2, 1, 8, 12, 12, generator=generator(3))
    target = (noise > 0.86).long() + (noise > 0.93).long()
    kept = largest_components(target)
    for sample, result in zip(target[:, 0].numpy(), kept[:, 0].numpy(), strict=True):
        for value in (1, 2):
            found = label(sample == value)
            sizes = np.bincount(found.ravel())[1:]
            assert (result == value).sum() == sizes.max()
            assert ((result == value) <= (sample == value)).all()


def test_largest_component_can_be_left_out():
    logits = two_channels(torch.where(torch.tensor(A) == 1, 2.0, -2.0)[None, None])
    with_all = method(ORGAN, bcp_largest_component=False)._pseudo_label(logits)
    assert with_all[0, 0].tolist() == (torch.tensor(A) == 1).long().tolist()
    largest = method(ORGAN)._pseudo_label(logits)
    assert largest[0, 0].tolist() == (torch.tensor(B) == 1).long().tolist()


# Warm-up


def test_warm_up_is_nnunets_loss_of_labelled_mixes(monkeypatch):
    monkeypatch.setattr(bcp, "sample_masks", left_half)
    space, network = SPACES["classes"], networks(SPACES["classes"])
    batch = make_batch(space, tasks=[0, 0, 0])
    images, targets = batch.labeled.clone(), [t.clone() for t in batch.targets]
    for target, source in [(images, batch.labeled), *zip(targets, batch.targets, strict=True)]:
        half = source.shape[-1] // 2
        target[..., :half] = source[[2, 0, 1]][..., :half]
    expected = nnunet_loss(space)(network(images), targets)
    taught = method(space, bcp_probability=1.0)
    terms = step(taught, network, replace(batch, unlabeled=None), progress=0.0)
    assert terms["labeled"][0].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("progress", "terms"), [(0.0, 1), (0.2999, 1), (0.3, 3), (1.0, 3)])
def test_when_the_warm_up_ends(progress, terms):
    assert len(step(method(warmup=0.3), networks(), make_batch(TASKS), progress=progress)) == terms


def test_warm_up_alone_needs_no_unlabelled_images():
    assert not method(warmup=1.0).uses_unlabeled
    assert method(warmup=0.0).uses_unlabeled
    with pytest.raises(ValueError, match="unlabelled images"):
        step(method(), networks(), replace(make_batch(TASKS), unlabeled=None))


def test_the_teacher_begins_as_the_student_at_the_end_of_the_warm_up(monkeypatch):
    decays = []

    def spy(network, decay):
        decays.append(decay)
        update_teacher(network, decay)

    monkeypatch.setattr(bcp, "update_teacher", spy)
    network = teacher_and_student(stock_network(2), stock_network(2, seed=1), STUDENT)
    for n in range(1, 11):
        method(warmup=0.4).after_update(network, n / 10)
        assert num_updates(network) == max(0, n - 3)
    assert decays == [0.0] + [0.99] * 6


def test_without_a_warm_up_the_teacher_begins_as_the_student():
    network = teacher_and_student(stock_network(4), stock_network(4, seed=1), STUDENT)
    step(method(warmup=0.0), network, make_batch(TASKS), progress=0.0)
    for n, p in network.extra(TEACHER).named_parameters():
        assert torch.equal(p, network.get_parameter(n)), n


# Randomness and resuming


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_the_generator_is_the_only_randomness(progress):
    network, batch, before = networks(), make_batch(TASKS), torch.random.get_rng_state()
    once = values(step(method(), network, batch, progress=progress))
    assert once == values(step(method(), network, batch, progress=progress))
    assert torch.equal(before, torch.random.get_rng_state())
    assert once["labeled"] != values(step(method(), network, batch, seed=1, progress=progress))["labeled"]


def test_inputs_are_left_alone():
    batch, twin = make_batch(TASKS), make_batch(TASKS)
    for progress in (0.0, 0.5):
        step(method(), networks(), batch, progress=progress)
    assert torch.equal(batch.labeled, twin.labeled) and torch.equal(batch.unlabeled, twin.unlabeled)
    assert all(torch.equal(a, b) for a, b in zip(batch.targets, twin.targets, strict=True))


def train(network, optimizer, draw, steps, total=8):
    taught, rows = method(warmup=0.25), []
    for n in steps:
        optimizer.zero_grad()
        terms = taught.losses(network, make_batch(TASKS, seed=n), n / total, draw)
        total_loss(terms).backward()
        optimizer.step()
        taught.after_update(network, (n + 1) / total)
        rows.append(values(terms))
    return rows


def fresh():
    network = teacher_and_student(stock_network(4), stock_network(4, seed=1), STUDENT)
    return network, torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_resumed_equals_uninterrupted(stop):
    network, optimizer = fresh()
    whole = train(network, optimizer, generator(), range(8))
    first, optimizer = fresh()
    draw = generator()
    rows = train(first, optimizer, draw, range(stop))
    resumed, other = fresh()
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again = torch.Generator()
    again.set_state(draw.get_state())
    assert rows + train(resumed, other, again, range(stop, 8)) == whole
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        {"warmup": 1.1},
        {"weight_unlabeled": -0.5},
        {"ema_decay": 2.0},
        {"bcp_box_side": 0.0 - 0.1},
        {"bcp_box_side": math.inf},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        BCPConfig(**options)


def test_defaults_are_the_papers_but_for_whole_images():
    config = BCPConfig()
    assert config.bcp_probability == 0.5
    assert (config.weight_unlabeled, config.ema_decay, config.bcp_box_side) == (0.5, 0.99, 2 / 3)
    assert config.bcp_largest_component


def test_boxes_are_drawn_for_each_sample_with_sides_of_two_thirds():
    mask = method()._boxes(64, torch.zeros(1, 1, 12, 18, 24), generator())
    assert mask.shape == (64, 1, 12, 18, 24) and mask.dtype == torch.bool
    assert ((~mask).flatten(1).sum(1) == 8 * 12 * 16).all()
    assert len({tuple(m.flatten().tolist()) for m in mask}) > 50
