"""Every method on toy networks: invariants for all, then VerSemi's equations one by one.

A new method joins with a line in ``METHODS``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from nnunet_ssl.masks import mix, sample_masks
from nnunet_ssl.methods import versemi
from nnunet_ssl.methods.base import Batch, Method, total_loss
from nnunet_ssl.methods.supervised import Supervised
from nnunet_ssl.methods.versemi import UniSeMiConfig, VerSemi, VerSemiConfig, partners
from nnunet_ssl.ramps import gaussian_ramp
from nnunet_ssl.targets import LabelSpace
from tests.unit.test_dbisl import EVERY, WATCHED, dbisl_method, dbisl_network
from tests.unit.toy import (
    BOTTLENECK,
    SCALE_WEIGHTS,
    SHAPES,
    SPACES,
    Counting,
    as_target,
    as_targets,
    assert_sound,
    dice_ce,
    downsample,
    generator,
    gradients,
    label_map,
    make_batch,
    nnunet_loss,
    passthrough,
    prompted_network,
    step,
    stock_network,
    values,
)

# Building any method


def versemi_method(space, deep_supervision=True, batch_dice=False, **options):
    weights = SCALE_WEIGHTS if deep_supervision else (1.0,)
    return VerSemi(VerSemiConfig(**options), space, weights, batch_dice)


def unisemi_method(space, deep_supervision=True, batch_dice=False, **options):
    weights = SCALE_WEIGHTS if deep_supervision else (1.0,)
    return VerSemi.without_auxiliary(UniSeMiConfig(**options), space, weights, batch_dice)


def supervised_method(space, deep_supervision=True, batch_dice=False):
    return Supervised(nnunet_loss(space, deep_supervision, batch_dice), space, deep_supervision)


def stock(space: LabelSpace, dim: int, deep_supervision: bool) -> nn.Module:
    channels = space.num_prompts + (0 if space.table.has_regions else 1)
    return stock_network(channels, dim, deep_supervision)


@dataclass(frozen=True)
class Case:
    """A method with its options and its network; terms in ``watched`` are not minimised."""

    method: Callable[..., Method]
    network: Callable[[LabelSpace, int, bool], nn.Module]
    terms: tuple[str, ...]
    options: tuple[tuple[str, object], ...] = ()
    watched: tuple[str, ...] = ()
    random: bool = True  # whether terms beside the supervised ones depend on the generator
    wants_dim: bool = False

    def build(self, space, dim=2, deep_supervision=True):
        options = dict(self.options) | ({"dim": dim} if self.wants_dim else {})
        method = self.method(space, deep_supervision=deep_supervision, **options)
        return method, Counting(self.network(space, dim, deep_supervision))


FOUR = ("labeled", "synthetic", "auxiliary", "unlabeled")
THREE = ("labeled", "synthetic", "unlabeled")


def soft(space, dim, deep_supervision):
    return prompted_network(space, dim, deep_supervision, prompt="soft")


def versemi_case(network=prompted_network, terms=FOUR, **options):
    return Case(versemi_method, network, terms, tuple(options.items()))


def dbisl_case(**options):
    return Case(
        dbisl_method, dbisl_network, EVERY, tuple(options.items()), WATCHED, random=False, wants_dim=True
    )


METHODS = {
    "Supervised": Case(supervised_method, stock, ("supervised",)),
    "Supervised batch_dice": Case(supervised_method, stock, ("supervised",), (("batch_dice", True),)),
    "UniSeMi": Case(unisemi_method, prompted_network, THREE),
    "VerSemi": versemi_case(),
    "VerSemi random": versemi_case(mask="random"),
    "VerSemi slice": versemi_case(mask="slice"),
    "VerSemi side": versemi_case(mask_ratio_of="side"),
    "VerSemi soft": versemi_case(soft),
    "VerSemi detach_agg": versemi_case(detach_agg=True),
    "VerSemi task_info": versemi_case(task_info=True),
    "VerSemi task_info detach_agg": versemi_case(task_info=True, detach_agg=True),
    "VerSemi batch_dice": versemi_case(batch_dice=True),
    "VerSemi no synthetic": versemi_case(terms=("labeled", "auxiliary", "unlabeled"), weight_synthetic=0.0),
    "VerSemi no unlabeled": versemi_case(terms=FOUR[:3], weight_unlabeled=0.0),
    "DBiSL": dbisl_case(),
}
EACH_METHOD = pytest.mark.parametrize("case", METHODS.values(), ids=METHODS.keys())
# The options that meet target formats; masks, prompts and weights do not
MAIN = ("Supervised", "UniSeMi", "VerSemi", "VerSemi task_info", "VerSemi batch_dice", "DBiSL")
EACH_MAIN_METHOD = pytest.mark.parametrize("case", [METHODS[name] for name in MAIN], ids=MAIN)
UNLABELED = {name: case for name, case in METHODS.items() if "unlabeled" in case.terms}
WITH_UNLABELED = pytest.mark.parametrize("case", UNLABELED.values(), ids=UNLABELED.keys())


# Invariants of every method


def assert_step_is_sound(case, name, dim=2, deep_supervision=True):
    method, network = case.build(SPACES[name], dim, deep_supervision)
    terms = step(method, network, make_batch(SPACES[name], dim, deep_supervision=deep_supervision))
    assert network.calls == 1
    assert tuple(terms) == case.terms
    assert_sound(terms, network, case.watched)


@EACH_METHOD
@pytest.mark.parametrize("dim", [2, 3])
def test_one_call_and_sound_terms(case, dim):
    assert_step_is_sound(case, "tasks_ignore", dim)


@EACH_MAIN_METHOD
@pytest.mark.parametrize("name", SPACES)
def test_kinds_of_targets(case, name):
    assert_step_is_sound(case, name)


@EACH_MAIN_METHOD
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["one_class", "regions_ignore"])
def test_without_deep_supervision(case, name, dim):
    assert_step_is_sound(case, name, dim, deep_supervision=False)


@EACH_METHOD
@pytest.mark.parametrize(("tasks", "unlabeled"), [([0], 1), ([1], 3), ([0, 1, 1], 1), ([0] * 4, 2)])
def test_batch_sizes(case, tasks, unlabeled):
    method, network = case.build(SPACES["tasks"])
    batch = make_batch(SPACES["tasks"], tasks=tasks, unlabeled=unlabeled)
    assert_sound(step(method, network, batch), network, case.watched)


def with_labels(batch: Batch, space: LabelSpace, fill: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    return replace(batch, targets=as_targets(space, fill(label_map(space, batch.tasks.tolist(), (16, 16)))))


@EACH_MAIN_METHOD
@pytest.mark.parametrize("name", ["one_class", "tasks_ignore", "regions_ignore"])
@pytest.mark.parametrize("value", ["background", "foreground", "ignored"])
def test_patches_of_one_label(case, name, value):
    space = SPACES[name]
    label = {"background": 0, "foreground": 1, "ignored": space.ignore_label or 0}[value]
    method, network = case.build(space)
    batch = with_labels(make_batch(space, tasks=[0, 0]), space, lambda labels: labels.fill_(label))
    assert_sound(step(method, network, batch), network, case.watched)


@EACH_METHOD
@pytest.mark.parametrize("intensity", [0.0, 1e4])
def test_constant_images(case, intensity):
    batch = make_batch(SPACES["tasks"])
    batch.labeled.fill_(intensity)
    batch.unlabeled.fill_(intensity)
    method, network = case.build(SPACES["tasks"])
    assert_sound(step(method, network, batch), network, case.watched)


@EACH_METHOD
def test_extreme_predictions(case):
    method, network = case.build(SPACES["tasks"])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(20)
    assert_sound(step(method, network, make_batch(SPACES["tasks"])), network, case.watched)


@EACH_MAIN_METHOD
def test_mixed_precision(case):
    method, network = case.build(SPACES["tasks_ignore"])
    batch = make_batch(SPACES["tasks_ignore"])
    exact = values(step(method, network, batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step(method, network, batch)
    assert_sound(terms, network, case.watched)
    assert all(value.dtype == torch.float32 for value, _ in terms.values())
    assert values(terms) == pytest.approx(exact, rel=0.05, abs=0.02)


@EACH_METHOD
def test_seeds(case):
    method, network = case.build(SPACES["tasks"])
    batch = make_batch(SPACES["tasks"])
    before = torch.random.get_rng_state()
    once = values(step(method, network, batch, seed=0))
    assert once == values(step(method, network, batch, seed=0))
    assert torch.equal(before, torch.random.get_rng_state())  # the generator is the only randomness
    other = values(step(method, network, batch, seed=1))
    same = [name for name in once if once[name] == other[name]]
    assert same == [name for name in once if name in ("supervised", "labeled") or not case.random]


@EACH_METHOD
def test_inputs_are_left_alone(case):
    method, network = case.build(SPACES["tasks"])
    batch, twin = make_batch(SPACES["tasks"]), make_batch(SPACES["tasks"])
    step(method, network, batch)
    for mine, theirs in [
        (batch.labeled, twin.labeled),
        (batch.unlabeled, twin.unlabeled),
        *zip(batch.targets, twin.targets, strict=True),
    ]:
        assert torch.equal(mine, theirs)


@WITH_UNLABELED
def test_unlabeled_term_depends_on_no_label(case):
    method, network = case.build(SPACES["tasks"])
    batch = make_batch(SPACES["tasks"])
    poisoned = replace(batch, targets=[torch.randint_like(t, 4) for t in batch.targets])
    clean, other = (step(method, network, b) for b in (batch, poisoned))
    assert clean["unlabeled"][0].item() == other["unlabeled"][0].item()
    assert clean["labeled"][0].item() != other["labeled"][0].item()
    assert not [f for f in Batch.__dataclass_fields__ if "unlabeled" in f and "target" in f]


@WITH_UNLABELED
def test_labeled_terms_do_not_depend_on_unlabeled_images(case):
    method, network = case.build(SPACES["tasks"])
    batch = make_batch(SPACES["tasks"])
    clean, other = (
        step(method, network, b) for b in (batch, replace(batch, unlabeled=batch.unlabeled.flip(0, 2)))
    )
    for name in case.terms[:-1]:
        assert clean[name][0].item() == pytest.approx(other[name][0].item(), rel=1e-5)
    assert clean["unlabeled"][0].item() != other["unlabeled"][0].item()


# Which parameters a term reaches: prompt k has its own column of psi


def touched_prompts(gradient):
    columns = gradient["network.head.seg_layers.psi.weight"][:, BOTTLENECK:].abs().sum(0)
    return columns.nonzero().flatten().tolist()


def touched_squeezes(gradient):
    """Resolutions, from the lowest (0), whose 1x1 squeeze gets a gradient."""
    weights = [gradient.get(f"network.decoder.seg_layers.{i}.weight") for i in range(3)]
    return [i for i, w in enumerate(weights) if w is not None and w.any()]


def body_is_reached(gradient):
    names = [n for n in gradient if n.startswith(("network.encoder", "network.decoder.stages"))]
    return len(names) > 20 and all(gradient[n].any() for n in names if n.endswith("conv.weight"))


OWN, FULL, SUPERVISED_SCALES = [0, 1, 2], [2], [1, 2]  # tasks: prompts 0; 1, 2; the synthetic prompt is 3


@pytest.mark.parametrize(
    ("options", "reached"),
    [
        ({}, {"labeled": OWN, "synthetic": [3], "auxiliary": OWN, "unlabeled": [0, 1, 2, 3]}),
        ({"detach_agg": True}, {"unlabeled": [3]}),
        ({"task_info": True}, {"unlabeled": [0, 1, 2, 3]}),
        ({"task_info": True, "detach_agg": True}, {"unlabeled": [3]}),
    ],
)
def test_terms_reach_their_parameters_only(options, reached):
    method, network = versemi_case(**options).build(SPACES["tasks"])
    nn.init.normal_(network.network.head["seg_layers"].psi.weight, std=0.4, generator=generator(1))
    terms = step(method, network, make_batch(SPACES["tasks"]))
    for name, prompts in reached.items():
        gradient = gradients(terms[name][0], network)
        assert touched_prompts(gradient) == prompts, name
        assert touched_squeezes(gradient) == (FULL if name == "unlabeled" else SUPERVISED_SCALES), name
        assert body_is_reached(gradient), name


@pytest.mark.parametrize(("task", "prompts"), [(0, [0]), (1, [1, 2])])
@pytest.mark.parametrize("name", ["labeled", "auxiliary"])
def test_samples_of_one_task_ask_its_prompts_only(task, prompts, name):
    method, network = versemi_case().build(SPACES["tasks"])
    terms = step(method, network, make_batch(SPACES["tasks"], tasks=[task, task]))
    assert touched_prompts(gradients(terms[name][0], network)) == prompts


def test_with_task_info_other_tasks_prompts_are_not_asked():
    method, network = versemi_case(task_info=True).build(SPACES["tasks"])
    batch = replace(make_batch(SPACES["tasks"]), unlabeled_tasks=torch.tensor([0, 0]))
    terms = step(method, network, batch)
    assert touched_prompts(gradients(terms["unlabeled"][0], network)) == [0, 3]


def test_soft_prompts_learn():
    method, network = METHODS["VerSemi soft"].build(SPACES["tasks"])
    for name, (value, _) in step(method, network, make_batch(SPACES["tasks"])).items():
        rows = gradients(value, network)["network.head.seg_layers.prompts"].abs().sum(1)
        assert rows.any(), name


# Supervised: nnU-Net's own loss


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("name", ["one_class", "classes", "ignore", "regions", "regions_ignore"])
def test_supervised_is_nnunet(name, deep_supervision):
    space = SPACES[name]
    method, network = METHODS["Supervised"].build(space, 2, deep_supervision)
    batch = make_batch(space, deep_supervision=deep_supervision)
    targets = batch.targets if deep_supervision else batch.targets[0]
    expected = nnunet_loss(space, deep_supervision)(network(batch.labeled), targets)
    assert torch.equal(step(method, network, batch)["supervised"][0], expected)
    assert not method.uses_unlabeled


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("name", ["one_class", "one_class_ignore", "regions"])
def test_all_weights_0_is_nnunets_loss_on_the_prompted_network(name, batch_dice, deep_supervision):
    """Up to the constant 1: nnU-Net's Dice loss is -Dice. A binary softmax is a sigmoid."""
    space = SPACES[name]
    zero = {"weight_synthetic": 0.0, "weight_auxiliary": 0.0, "weight_unlabeled": 0.0}
    method = versemi_method(space, deep_supervision, batch_dice, **zero)
    network = Counting(prompted_network(space, 2, deep_supervision))
    batch = make_batch(space, deep_supervision=deep_supervision)
    terms = step(method, network, batch)
    assert list(terms) == ["labeled"] and terms["labeled"][1] == 1.0
    assert not method.uses_unlabeled
    targets = batch.targets if deep_supervision else batch.targets[0]
    expected = nnunet_loss(space, deep_supervision, batch_dice)(network.network(batch.labeled), targets)
    assert total_loss(terms).item() == pytest.approx(expected.item() + 1, rel=1e-5)
    mine, nnunets = (gradients(loss, network) for loss in (total_loss(terms), expected))
    for key in nnunets:
        assert torch.allclose(mine[key], nnunets[key], atol=1e-5), key


def test_supervised_part_is_the_same_whatever_else_is_on():
    space, batch = SPACES["tasks"], make_batch(SPACES["tasks"])
    alone = versemi_method(space, weight_synthetic=0.0, weight_auxiliary=0.0, weight_unlabeled=0.0)
    network = Counting(prompted_network(space))
    expected = values(step(alone, network, replace(batch, unlabeled=None)))["labeled"]
    assert values(step(versemi_method(space), network, batch))["labeled"] == pytest.approx(expected, rel=1e-5)


# Weights


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.4, 1.0])
def test_weights_and_ramp(progress):
    method = versemi_method(SPACES["tasks"], weight_synthetic=2.0, weight_auxiliary=3.0, weight_unlabeled=0.5)
    terms = step(method, prompted_network(SPACES["tasks"]), make_batch(SPACES["tasks"]), progress=progress)
    ramp = 0.5 * gaussian_ramp(progress, 0.4)
    assert [weight for _, weight in terms.values()] == [1.0, 2.0, 3.0, pytest.approx(ramp)]
    expected = sum(value * weight for value, weight in terms.values())
    assert total_loss(terms).item() == pytest.approx(expected.item(), rel=1e-6)


def test_paper_defaults():
    config = VerSemiConfig()
    assert (config.mask, config.mask_ratio_min, config.mask_ratio_max) == ("box", 0.3, 0.7)
    assert config.weight_synthetic == config.weight_auxiliary == config.weight_unlabeled == 1.0
    assert (config.prompt, config.detach_agg, config.task_info) == ("one_hot", False, False)


def test_unisemi_has_no_auxiliary_option():
    assert not hasattr(UniSeMiConfig(), "weight_auxiliary")
    assert not isinstance(UniSeMiConfig(), VerSemiConfig)


def test_unisemi_is_versemi_without_the_auxiliary_term():
    space, batch = SPACES["tasks"], make_batch(SPACES["tasks"])
    network = prompted_network(space)
    one = values(step(unisemi_method(space), network, batch))
    other = values(step(versemi_method(space), network, batch))
    assert one == {name: other[name] for name in THREE}


@pytest.mark.parametrize("missing", ["unlabeled", "unlabeled_tasks"])
def test_missing_data_is_named(missing):
    method = versemi_method(SPACES["tasks"], task_info=True)
    batch = replace(make_batch(SPACES["tasks"]), **{missing: None})
    with pytest.raises(ValueError, match="unlabelled images"):
        step(method, prompted_network(SPACES["tasks"]), batch)


def test_unknown_tasks_of_unlabeled_images_do_not_matter_without_task_info():
    space, batch = SPACES["tasks"], make_batch(SPACES["tasks"])
    unknown = replace(batch, unlabeled_tasks=torch.tensor([-1, -1]))
    network = prompted_network(space)
    once, other = (values(step(versemi_method(space), network, b)) for b in (batch, unknown))
    assert once == other
    terms = step(versemi_method(space, task_info=True), Counting(network), unknown)
    assert torch.isfinite(terms["unlabeled"][0])


# Pairing


@pytest.mark.parametrize("size", range(1, 8))
def test_partners_are_a_permutation_of_different_tasks_where_possible(size):
    for tasks in itertools.product(range(3), repeat=size):
        pairing = partners(torch.tensor(tasks))
        assert sorted(pairing.tolist()) == list(range(size))
        same = sum(tasks[i] == tasks[p] for i, p in enumerate(pairing.tolist()))
        largest = max(Counter(tasks).values())
        assert same == max(0, 2 * largest - size)  # no pairing does better


def test_partners_of_one_task_differ():
    assert all((partners(torch.zeros(n, dtype=torch.long)) != torch.arange(n)).all() for n in range(2, 8))
    assert partners(torch.tensor([5])).tolist() == [0]


# The equations, on hand-made outputs


class Stub(nn.Module):
    """A network whose log-odds are given: (samples, K + 1, *spatial) for each resolution."""

    def __init__(self, *log_odds):
        super().__init__()
        self.log_odds = log_odds
        self.seen = None

    def forward(self, x, prompted=False):
        assert prompted and len(x) == len(self.log_odds[0])
        self.seen = x
        return passthrough(*self.log_odds)


def left_half_pasted(kind, count, shape, ratio, draw, ratio_of="volume"):
    mask = torch.ones(count, 1, *shape)
    mask[..., : shape[-1] // 2] = 0
    return mask


def stubbed(monkeypatch, space, batch, rows, deep_supervision=False, **options):
    """Terms of VerSemi and the stub, with random log-odds for ``rows`` samples in all."""
    monkeypatch.setattr(versemi, "sample_masks", left_half_pasted)
    draw = generator(7)
    log_odds = [
        3 * torch.randn(rows, space.num_prompts + 1, *t.shape[2:], generator=draw) for t in batch.targets
    ]
    stub = Stub(*log_odds)
    return step(versemi_method(space, deep_supervision, **options), stub, batch), stub


def mixed_labels(batch, partner, scale=1.0):
    """Y_syn of eq. 2 under the mask above."""
    half = SHAPES[2][1] // 2
    target = batch.targets[0].clone()
    target[..., :half] = batch.targets[0][partner][..., :half]
    return downsample(target, scale)[:, 0]


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


TASKS = SPACES["tasks"]
PARTNER = {(0, 1): [1, 0], (0, 0): [1, 0], (1, 1): [1, 0]}
VALUES = {0: [1], 1: [2, 3]}  # label values of each task; prompt k has value k + 1


def test_equations_2_and_6_the_images(monkeypatch):
    batch = make_batch(TASKS, tasks=[0, 1], deep_supervision=False, unlabeled=3)
    _, stub = stubbed(monkeypatch, TASKS, batch, 2 + 2 + 3)
    labeled, mixed, mixed_unlabeled = stub.seen.split([2, 2, 3])
    assert torch.equal(labeled, batch.labeled)
    assert torch.equal(mixed[..., 8:], batch.labeled[..., 8:])
    assert torch.equal(mixed[..., :8], batch.labeled[[1, 0]][..., :8])
    assert torch.equal(mixed_unlabeled[..., 8:], batch.unlabeled[..., 8:])
    assert torch.equal(mixed_unlabeled[..., :8], batch.unlabeled[[1, 2, 0]][..., :8])


def test_masks_are_drawn_per_sample_and_stream(monkeypatch):
    asked = []

    def spy(*args):
        asked.append(args[:4] + args[5:])
        return sample_masks(*args)

    monkeypatch.setattr(versemi, "sample_masks", spy)
    batch = make_batch(TASKS, 3, tasks=[0, 1], unlabeled=3)
    options = {"mask": "slice", "mask_ratio_min": 0.2, "mask_ratio_max": 0.4, "mask_ratio_of": "side"}
    step(versemi_method(TASKS, **options), prompted_network(TASKS, 3), batch)
    assert asked == [("slice", n, SHAPES[3], (0.2, 0.4), "side") for n in (2, 3)]


def test_equation_3_own_prompts_only(monkeypatch):
    batch = make_batch(TASKS, tasks=[0, 1], deep_supervision=False)
    terms, stub = stubbed(monkeypatch, TASKS, batch, 6)
    z, y = stub.log_odds[0], batch.targets[0][:, 0]
    per_sample = [
        mean(dice_ce(z[i, v - 1], y[i] == v) for v in VALUES[task]) for i, task in enumerate([0, 1])
    ]
    assert terms["labeled"][0].item() == pytest.approx(mean(per_sample), rel=1e-5)


def test_deep_supervision_weighs_each_resolution(monkeypatch):
    batch = make_batch(TASKS, tasks=[0, 1])
    terms, stub = stubbed(monkeypatch, TASKS, batch, 6, deep_supervision=True)
    total = {"labeled": 0.0, "synthetic": 0.0}
    for weight, z, target, scale in zip(
        SCALE_WEIGHTS, stub.log_odds, batch.targets, (1, 0.5, 0.25), strict=True
    ):
        labels, mixed = target[:, 0], mixed_labels(batch, [1, 0], scale)
        own = [mean(dice_ce(z[i, v - 1], labels[i] == v) for v in VALUES[i]) for i in (0, 1)]
        total["labeled"] += weight * mean(own)
        total["synthetic"] += weight * mean(dice_ce(z[2 + i, 3], mixed[i] > 0) for i in (0, 1))
    for name, expected in total.items():
        assert terms[name][0].item() == pytest.approx(expected, rel=1e-5)


def test_the_synthetic_target_is_the_union_of_the_foreground(monkeypatch):
    batch = make_batch(TASKS, tasks=[0, 1], deep_supervision=False)
    terms, stub = stubbed(monkeypatch, TASKS, batch, 6)
    mixed = mixed_labels(batch, [1, 0])
    assert {1, 2, 3} <= set(mixed.unique().tolist())
    expected = mean(dice_ce(stub.log_odds[0][2 + i, 3], mixed[i] > 0) for i in (0, 1))
    assert terms["synthetic"][0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tasks", [(0, 1), (0, 0), (1, 1)])
def test_equation_4_each_prompt_and_its_own_part(tasks, monkeypatch):
    """Two tasks: the sum over both sides. The same task on both sides: the mixed target, once."""
    batch = make_batch(TASKS, tasks=list(tasks), deep_supervision=False)
    terms, stub = stubbed(monkeypatch, TASKS, batch, 6)
    mixed = mixed_labels(batch, PARTNER[tasks])
    expected = mean(
        sum(mean(dice_ce(stub.log_odds[0][2 + i, v - 1], mixed[i] == v) for v in VALUES[t]) for t in {*tasks})
        for i in (0, 1)
    )
    assert terms["auxiliary"][0].item() == pytest.approx(expected, rel=1e-5)


def test_equation_4_targets_hold_nothing_of_the_other_side(monkeypatch):
    """Y_k is Y_i M for k = i and Y_j (1 - M) for k = j, whatever lies in the other part."""
    batch = make_batch(TASKS, tasks=[0, 1], deep_supervision=False)
    mixed = mixed_labels(batch, [1, 0])
    own, pasted = mixed[0, :, 8:], mixed[0, :, :8]
    assert set(own.unique().tolist()) <= {0, 1} and set(pasted.unique().tolist()) <= {0, 2, 3}
    terms, stub = stubbed(monkeypatch, TASKS, batch, 6)
    z = stub.log_odds[0]
    perfect = [torch.where(mixed == v, 30.0, -30.0) for v in (1, 2, 3)]
    z[2:4, :3] = torch.stack(perfect, 1)
    terms = step(versemi_method(TASKS, False), Stub(z), batch)
    assert terms["auxiliary"][0].item() == pytest.approx(0, abs=1e-4)
    assert terms["synthetic"][0].item() > 0.5


def test_ignored_voxels_count_nowhere(monkeypatch):
    space = SPACES["tasks_ignore"]
    batch = make_batch(space, tasks=[0, 1], deep_supervision=False)
    terms, stub = stubbed(monkeypatch, space, batch, 6)
    mixed = mixed_labels(batch, [1, 0])
    z = stub.log_odds[0].clone()
    z[:2] += 9 * (batch.targets[0] == 4)
    z[2:4] += 9 * (mixed == 4)[:, None]
    other = step(versemi_method(space, False), Stub(z), batch)
    for name in ("labeled", "synthetic", "auxiliary"):
        assert terms[name][0].item() == pytest.approx(other[name][0].item(), rel=1e-6)
    expected = mean(dice_ce(z[2 + i, 3], (mixed[i] > 0) & (mixed[i] != 4), mixed[i] != 4) for i in (0, 1))
    assert terms["synthetic"][0].item() == pytest.approx(expected, rel=1e-5)


def test_regions_overlap(monkeypatch):
    space = SPACES["regions"]
    batch = make_batch(space, tasks=[0, 0], deep_supervision=False)
    terms, stub = stubbed(monkeypatch, space, batch, 6)
    whole, core = as_target(space, label_map(space, [0, 0], SHAPES[2])).unbind(1)
    assert (core & whole).any() and torch.equal(core & whole, core)
    z = stub.log_odds[0]
    expected = mean(mean([dice_ce(z[i, 0], whole[i]), dice_ce(z[i, 1], core[i])]) for i in (0, 1))
    assert terms["labeled"][0].item() == pytest.approx(expected, rel=1e-5)


def soft_dice(p, q):
    return float(1 - (2 * (p * q).sum() + 1e-5) / ((p * p).sum() + (q * q).sum() + 1e-5))


@pytest.mark.parametrize("name", ["one_class", "tasks", "regions"])
def test_equations_6_and_7_the_maximum_over_prompts(name, monkeypatch):
    space = SPACES[name]
    batch = make_batch(space, tasks=[0, 0], deep_supervision=False)
    terms, stub = stubbed(monkeypatch, space, batch, 6)
    p = torch.sigmoid(stub.log_odds[0][4:].double())
    expected = mean(soft_dice(p[i, :-1].max(0).values, p[i, -1]) for i in (0, 1))
    assert terms["unlabeled"][0].item() == pytest.approx(expected, rel=1e-5)


def test_agreement_is_no_loss(monkeypatch):
    batch = make_batch(TASKS, tasks=[0, 1], deep_supervision=False)
    _, stub = stubbed(monkeypatch, TASKS, batch, 6)
    z = stub.log_odds[0].clone()
    z[4:, -1] = z[4:, :-1].amax(1)
    terms = step(versemi_method(TASKS, False), Stub(z), batch)
    assert terms["unlabeled"][0].item() == pytest.approx(0, abs=1e-6)


def test_section_v_d_sources_under_their_own_prompts(monkeypatch):
    batch = replace(
        make_batch(TASKS, tasks=[0, 1], deep_supervision=False), unlabeled_tasks=torch.tensor([1, 0])
    )
    terms, stub = stubbed(monkeypatch, TASKS, batch, 2 + 2 + 2 + 2, task_info=True)
    assert torch.equal(stub.seen[6:], batch.unlabeled)
    p = torch.sigmoid(stub.log_odds[0].double())
    of_brain, of_atrium = p[6, 1:3].max(0).values, p[7, 0]
    mask = left_half_pasted(None, 2, SHAPES[2], None, None)[0, 0]
    aggregated = [mix(of_brain, of_atrium, mask), mix(of_atrium, of_brain, mask)]
    expected = mean(soft_dice(aggregated[i], p[4 + i, -1]) for i in (0, 1))
    assert terms["unlabeled"][0].item() == pytest.approx(expected, rel=1e-5)


def test_batch_dice_is_one_dice_per_prompt(monkeypatch):
    space = SPACES["one_class"]
    batch = make_batch(space, tasks=[0, 0], deep_supervision=False)
    terms, stub = stubbed(monkeypatch, space, batch, 6, batch_dice=True)
    mixed = mixed_labels(batch, [1, 0])
    z, y = stub.log_odds[0], batch.targets[0][:, 0]
    # voxels of the batch in one row: CE is a mean over equally many voxels, Dice is shared
    assert terms["labeled"][0].item() == pytest.approx(dice_ce(z[:2, 0], y == 1), rel=1e-5)
    assert terms["synthetic"][0].item() == pytest.approx(dice_ce(z[2:4, 1], mixed > 0), rel=1e-5)
    assert terms["auxiliary"][0].item() == pytest.approx(dice_ce(z[2:4, 0], mixed == 1), rel=1e-5)


def test_a_batch_of_one_is_mixed_with_itself(monkeypatch):
    batch = make_batch(TASKS, tasks=[1], deep_supervision=False, unlabeled=1)
    terms, stub = stubbed(monkeypatch, TASKS, batch, 3)
    assert torch.equal(stub.seen[1], batch.labeled[0])
    assert torch.equal(stub.seen[2], batch.unlabeled[0])
    z, y = stub.log_odds[0], batch.targets[0][0, 0]
    expected = mean(dice_ce(z[1, v - 1], y == v) for v in (2, 3))
    assert terms["auxiliary"][0].item() == pytest.approx(expected, rel=1e-5)
