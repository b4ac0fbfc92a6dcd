"""Mean Teacher on toy networks: its equation, who learns, who follows, and that no network judges itself."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.methods import mean_teacher
from nnunet_ssl.methods.base import total_loss
from nnunet_ssl.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from nnunet_ssl.methods.supervised import Supervised
from nnunet_ssl.nn.ema import STUDENT, TEACHER, start_other, teacher_and_student, update_teacher
from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY
from tests.unit.toy import (
    SPACES,
    Counting,
    generator,
    gradients,
    make_batch,
    nnunet_loss,
    step,
    stock_network,
    values,
)

TASKS = SPACES["tasks"]


def method(space=TASKS, deep_supervision=True, **options):
    loss = nnunet_loss(space, deep_supervision)
    return MeanTeacher(MeanTeacherConfig(**options), loss, space, deep_supervision)


def networks(space=TASKS, dim=2, deep_supervision=True):
    """Teacher and student that differ, in the midst of a training."""
    channels = space.num_prompts + (0 if space.table.has_regions else 1)
    first, second = (stock_network(channels, dim, deep_supervision, seed=seed) for seed in (0, 1))
    pair = teacher_and_student(first, second, TEACHER)
    update_teacher(pair, 0.9)
    return pair


def assert_sound(terms, network):
    assert list(terms) == ["labeled", "unlabeled"]
    for name, (value, weight) in terms.items():
        assert value.ndim == 0 and torch.isfinite(value), name
        assert value.dtype == torch.float32 and weight > 0
        assert all(torch.isfinite(g).all() for g in gradients(value, network).values()), name


# Every kind of data


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_kinds_of_targets(name, deep_supervision):
    space = SPACES[name]
    network = Counting(networks(space, 2, deep_supervision))
    batch = make_batch(space, deep_supervision=deep_supervision)
    assert_sound(step(method(space, deep_supervision), network, batch), network)
    assert network.calls == 1


@pytest.mark.parametrize(("tasks", "unlabeled"), [([0], 1), ([1], 3), ([0, 1, 1], 1)])
def test_three_dimensions_and_batch_sizes(tasks, unlabeled):
    network = networks(dim=3)
    assert_sound(step(method(), network, make_batch(TASKS, 3, tasks=tasks, unlabeled=unlabeled)), network)


@pytest.mark.parametrize("intensity", [0.0, 1e4])
def test_constant_images(intensity):
    batch, network = make_batch(TASKS), networks()
    batch.labeled.fill_(intensity)
    batch.unlabeled.fill_(intensity)
    assert_sound(step(method(), network, batch), network)


def test_mixed_precision():
    network, batch = networks(), make_batch(TASKS)
    exact = values(step(method(), network, batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step(method(), network, batch)
    assert_sound(terms, network)
    assert values(terms) == pytest.approx(exact, rel=0.05, abs=0.02)


def test_compiled():
    network, batch = networks(), make_batch(TASKS)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="eager")
    assert values(step(method(), compiled, batch)) == pytest.approx(
        values(step(method(), network, batch)), rel=1e-5
    )


# The equation


@pytest.mark.parametrize("name", ["tasks", "regions"])
def test_consistency_by_hand(name):
    """Without noise: the mean square of the difference between what two separate networks predict."""
    space, batch = SPACES[name], make_batch(SPACES[name])
    pair = networks(space)
    teacher, student = copy.deepcopy(pair), copy.deepcopy(pair.extra(STUDENT))
    terms = step(method(space, mean_teacher_noise=0.0), pair, batch)
    with torch.no_grad():
        p, q = student(batch.unlabeled)[0], teacher(batch.unlabeled)[0]
    squash = torch.sigmoid if space.table.has_regions else lambda z: z.softmax(1)
    expected = ((squash(p) - squash(q)) ** 2).mean()
    assert expected > 1e-4
    assert terms["unlabeled"][0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_equal_networks_agree_without_noise_and_differ_with_it():
    network, batch = networks(), make_batch(TASKS)
    update_teacher(network, 0.0)
    assert step(method(mean_teacher_noise=0.0), network, batch)["unlabeled"][0].item() < 1e-12
    assert step(method(), network, batch)["unlabeled"][0].item() > 1e-7


def test_labeled_term_is_nnunets_loss_of_the_student():
    network, batch = networks(), make_batch(TASKS)
    supervised = Supervised(nnunet_loss(TASKS), TASKS, deep_supervision=True)
    expected = supervised.losses(network.extra(STUDENT), batch, 0.5, generator())["supervised"][0]
    assert step(method(), network, batch)["labeled"][0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_weight_0_is_supervised():
    network, batch = networks(), replace(make_batch(TASKS), unlabeled=None)
    alone = method(weight_unlabeled=0.0)
    assert not alone.uses_unlabeled
    terms = step(alone, network, batch)
    supervised = Supervised(nnunet_loss(TASKS), TASKS, deep_supervision=True)
    assert list(terms) == ["labeled"]
    assert torch.equal(
        total_loss(terms),
        total_loss(supervised.losses(network.extra(STUDENT), batch, 0.5, generator())),
    )


@pytest.mark.parametrize(
    ("progress", "weight"), [(0.0, 0.1 * math.exp(-5)), (0.5, 0.1 * math.exp(-1.25)), (1.0, 0.1)]
)
def test_ramp(progress, weight):
    terms = step(method(), networks(), make_batch(TASKS), progress=progress)
    assert terms["labeled"][1] == 1.0 and terms["unlabeled"][1] == pytest.approx(weight)


def test_missing_images_are_named():
    with pytest.raises(ValueError, match="unlabelled images"):
        step(method(), networks(), replace(make_batch(TASKS), unlabeled=None))


# The noise


def test_noise_is_clipped_and_of_the_asked_size():
    noise = method(mean_teacher_noise=0.3)._noise(torch.zeros(4, 1, 64, 64), generator())
    assert noise.abs().max() == pytest.approx(0.6)
    # a Gaussian clipped at 2 sigma has 0.9593 of its standard deviation
    assert noise.std().item() == pytest.approx(0.3 * 0.9593, rel=0.02)
    assert abs(noise.mean().item()) < 0.01


def test_each_network_sees_noise_of_its_own():
    seen = []

    class Watching(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, run):
            self.network.encoder.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
            self.network.extra(STUDENT).encoder.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
            return self.network(x, run)

    batch = make_batch(TASKS)
    step(method(), Watching(networks()), batch)
    teacher_saw, student_saw = seen
    assert torch.equal(student_saw[:4], batch.labeled)  # truth is learnt from clean images
    noises = [teacher_saw - batch.unlabeled, student_saw[4:] - batch.unlabeled]
    for noise in noises:
        assert 0 < noise.abs().max() <= 0.2 + 1e-6
    assert not torch.equal(*noises)


def test_the_generator_is_the_only_randomness():
    network, batch, before = networks(), make_batch(TASKS), torch.random.get_rng_state()
    once = values(step(method(), network, batch))
    assert once == values(step(method(), network, batch))
    assert torch.equal(before, torch.random.get_rng_state())
    other = values(step(method(), network, batch, seed=1))
    assert once["unlabeled"] != other["unlabeled"]
    assert once["labeled"] == other["labeled"]


# Who learns and who follows


def test_the_student_learns_and_the_teacher_gets_no_gradient():
    network = networks()
    terms = step(method(), network, make_batch(TASKS))
    total_loss(terms).backward()
    for name, parameter in network.named_parameters():
        if name.startswith(TRAINING_ONLY):
            assert parameter.requires_grad
        else:
            assert parameter.grad is None, name
    reached = gradients(step(method(), network, make_batch(TASKS))["unlabeled"][0], network)
    convolutions = [n for n in reached if n.endswith("conv.weight")]
    assert len(convolutions) > 5 and all(reached[n].any() for n in convolutions)


def test_the_teacher_is_no_second_student():
    """Moving the teacher moves the consistency and leaves the supervised term alone, and the other way."""
    network, batch = networks(), make_batch(TASKS)
    before = values(step(method(), network, batch))
    with torch.no_grad():
        network.decoder.seg_layers[-1].weight.mul_(3)
    moved = values(step(method(), network, batch))
    assert moved["labeled"] == before["labeled"] and moved["unlabeled"] != before["unlabeled"]
    with torch.no_grad():
        network.extra(STUDENT).decoder.seg_layers[-1].weight.mul_(3)
    both = values(step(method(), network, batch))
    assert both["labeled"] != moved["labeled"] and both["unlabeled"] != moved["unlabeled"]


def test_unlabeled_term_depends_on_no_label():
    network, batch = networks(), make_batch(TASKS)
    poisoned = replace(batch, targets=[torch.randint_like(t, 4) for t in batch.targets])
    clean, other = (values(step(method(), network, b)) for b in (batch, poisoned))
    assert clean["unlabeled"] == other["unlabeled"] and clean["labeled"] != other["labeled"]


def test_decay_of_each_update(monkeypatch):
    decays = []

    def spy(network, decay):
        decays.append(decay)
        update_teacher(network, decay)

    monkeypatch.setattr(mean_teacher, "update_teacher", spy)
    network = teacher_and_student(stock_network(2), stock_network(2, seed=1), TEACHER)
    for _ in range(120):
        method().after_update(network, 0.0)
    assert decays[:4] == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])  # an average of all students so far
    assert decays[98:] == pytest.approx([98 / 99] + [0.99] * 21)


def test_first_updates_are_the_average_of_the_students():
    network = teacher_and_student(stock_network(2), stock_network(2, seed=1), TEACHER)
    weight = network.extra(STUDENT).decoder.seg_layers[-1].bias
    for n in range(1, 5):
        with torch.no_grad():
            weight.fill_(n)
        method().after_update(network, 0.0)
    assert network.decoder.seg_layers[-1].bias.tolist() == pytest.approx([2.5, 2.5])


def train(network, optimizer, draw, steps, total=6):
    taught, rows = method(ramp_length=0.5), []
    for n in steps:
        optimizer.zero_grad()
        terms = taught.losses(network, make_batch(TASKS, seed=n), n / total, draw)
        total_loss(terms).backward()
        optimizer.step()
        taught.after_update(network, (n + 1) / total)
        rows.append(values(terms))
    return rows


def fresh():
    network = teacher_and_student(stock_network(4), stock_network(4, seed=1), TEACHER)
    return network, torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)


def test_resumed_equals_uninterrupted():
    network, optimizer = fresh()
    whole = train(network, optimizer, generator(), range(6))
    first, optimizer = fresh()
    draw = generator()
    rows = train(first, optimizer, draw, range(3))
    resumed, other = fresh()
    start_other(resumed)  # a new run may begin before the checkpoint is loaded
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again = torch.Generator()
    again.set_state(draw.get_state())
    rows += train(resumed, other, again, range(3, 6))
    assert rows == whole
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in network.state_dict().items())


def test_teacher_and_student_both_learn():
    space = SPACES["one_class"]
    network = teacher_and_student(stock_network(2), stock_network(2, seed=1), TEACHER)
    optimizer, batch = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9), make_batch(space)
    draw, taught, loss = generator(), method(space), nnunet_loss(space)
    with torch.no_grad():
        untaught = loss(network(batch.labeled), batch.targets).item()
    for _ in range(15):
        optimizer.zero_grad()
        terms = taught.losses(network, batch, 1.0, draw)
        total_loss(terms).backward()
        optimizer.step()
        taught.after_update(network, 1.0)
    assert terms["labeled"][0].item() < untaught - 0.2
    with torch.no_grad():
        assert loss(network(batch.labeled), batch.targets).item() < untaught - 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"weight_unlabeled": -1.0},
        {"ramp_length": 1.5},
        {"ema_decay": 1.01},
        {"ema_decay": -0.1},
        {"mean_teacher_noise": -0.1},
        {"mean_teacher_noise": math.nan},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        MeanTeacherConfig(**options)


def test_defaults_of_the_literature():
    assert MeanTeacherConfig() == MeanTeacherConfig(0.1, 1.0, 0.99, 0.1)
