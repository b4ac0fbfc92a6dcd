"""The pseudo-label monitor: what it measures, when it warns, and that it touches nothing."""

from __future__ import annotations

import dataclasses
import math
import re
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ssl.config import FREE_OPTIONS, TrainingConfig
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.methods.base import Batch, Method
from nnunet_ssl.nn.ema import STUDENT, teacher_and_student
from nnunet_ssl.pseudo_labels import (
    Expected,
    collapses,
    count_labels,
    expected,
    label_maps,
    mean_dice,
    mean_observation,
    observe,
    overlaps,
)
from nnunet_ssl.training.monitor import Monitor, _spread
from tests.unit import test_bcp, test_dbisl, test_mean_teacher, test_methods, test_pick, test_propl
from tests.unit.toy import (
    SHAPES,
    SPACES,
    as_target,
    generator,
    label_map,
    make_batch,
    prompted_network,
    stock_network,
)

CLASSES, REGIONS, ONE, TASKS = SPACES["classes"], SPACES["regions"], SPACES["one_class"], SPACES["tasks"]


def logits_of(labels: Tensor, classes: int, sure: float = 3.0) -> Tensor:
    """Logits whose argmax is a label map (N, *spatial)."""
    return sure * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


# What is measured


def test_observation_of_classes_by_hand() -> None:
    labels = torch.tensor([[[0, 1, 1, 2]], [[0, 0, 0, 0]]])
    other = torch.tensor([[[0, 1, 0, 1]], [[0, 0, 0, 3]]])
    seen = observe([logits_of(labels, 4), logits_of(other, 4)], CLASSES)
    assert seen.coverage == 3 / 8
    assert seen.by_label == (2 / 8, 1 / 8, 0.0)
    assert seen.confidence == pytest.approx(math.exp(3) / (math.exp(3) + 3))
    assert seen.agreement == pytest.approx(2 * 1 / (3 + 3))  # one voxel has the same label in both


def test_observation_of_regions_by_hand() -> None:
    whole, core = torch.tensor([2.0, 2.0, -1.0, -1.0]), torch.tensor([-1.0, 1.0, -1.0, -1.0])
    seen = observe([torch.stack([whole, core]).view(1, 2, 1, 4)], REGIONS)
    assert seen.coverage == 0.5 and seen.by_label == (0.5, 0.25)
    sigmoid = [1 / (1 + math.exp(-z)) for z in (2, 2, 1)]
    assert seen.confidence == pytest.approx(sum(sigmoid) / 3)
    assert math.isnan(seen.agreement)


def test_a_second_view_of_any_foreground() -> None:
    labels = torch.tensor([[[0, 1, 2, 3]]])
    seen = observe([logits_of(labels, 4), torch.tensor([-1.0, 1.0, 1.0, -1.0]).view(1, 1, 1, 4)], CLASSES)
    assert seen.agreement == pytest.approx(2 * 2 / (3 + 2))


def test_empty_pseudo_labels_have_no_confidence() -> None:
    empty = logits_of(torch.zeros(1, 2, 2, dtype=torch.long), 4)
    seen = observe([empty, empty], CLASSES)
    assert seen.coverage == 0 and math.isnan(seen.confidence) and math.isnan(seen.agreement)
    full = observe([logits_of(torch.ones(1, 2, 2, dtype=torch.long), 4)] * 2, CLASSES)
    mean = mean_observation([seen, full])
    assert (mean.coverage, mean.agreement, mean.by_label) == (0.5, 1.0, (0.5, 0.0, 0.0))
    assert mean.confidence == full.confidence


@pytest.mark.parametrize("name", SPACES)
def test_label_maps_and_counts_agree(name: str) -> None:
    space = SPACES[name]
    labels = label_map(space, [0, 0], (8, 8))
    maps = label_maps(as_target(space, labels), space)
    counts = count_labels(labels.long(), space)
    assert maps.shape == (2, space.num_prompts, 8, 8)
    assert maps.transpose(0, 1).flatten(1).sum(1).tolist() == counts[:-2].tolist()
    assert int(maps.any(1).sum()) == int(counts[-2])
    assert int(counts[-1]) == (labels != space.ignore_label).sum() if space.ignore_label else 128


def test_expected_foreground_weighs_tasks_the_same() -> None:
    # atrium | front, back | any | all
    counts = [(0, [10, 0, 0, 10, 100]), (0, [0, 0, 0, 0, 100]), (1, [0, 30, 10, 40, 100])]
    wanted = expected([(t, torch.tensor(c)) for t, c in counts], TASKS)
    assert wanted.names == ("atrium", "front", "back")
    assert wanted.by_label == pytest.approx((0.05 / 2, 0.3 / 2, 0.1 / 2))
    assert wanted.coverage == pytest.approx((0.05 + 0.4) / 2)


def test_hidden_dice_by_hand() -> None:
    truth = torch.tensor([1, 1, 2, 0]).view(1, 1, 1, 4)
    guess = logits_of(torch.tensor([[[1, 0, 2, 2]]]), 4)
    counts = overlaps(guess, truth, 0, CLASSES)
    assert counts.tolist() == [[1, 1, 0], [3, 3, 0]]
    assert mean_dice(counts) == pytest.approx(2 / 3)  # the third label occurs nowhere and does not count
    assert math.isnan(mean_dice(torch.zeros(2, 3)))
    ignored = SPACES["ignore"]
    truth = torch.tensor([1, 1, 3, 3]).view(1, 1, 1, 4)
    counts = overlaps(logits_of(torch.tensor([[[1, 1, 1, 2]]]), 3), truth, 0, ignored)
    assert mean_dice(counts) == 1.0
    other_task = overlaps(logits_of(torch.tensor([[[1, 2, 3, 0]]]), 4), torch.zeros(1, 1, 1, 4), 0, TASKS)
    assert other_task[1].tolist() == [1, 0, 0]  # only the task's own label


# Collapse

WANTED = Expected(0.2, (0.1, 0.1), ("left", "right"))


def told(coverage: list[float], epochs: int = 20, **curves: list[Any]) -> list[list[str]]:
    """What is said after each epoch."""
    history = {"ssl_monitor/coverage": coverage} | {f"ssl_monitor/{k}": v for k, v in curves.items()}
    ends = range(1, len(coverage) + 1)
    return [collapses({k: v[:n] for k, v in history.items()}, WANTED, epochs) for n in ends]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "empty in each of the last 5 epochs"),
        (0.995, r"nearly everything was called foreground .* \(99.5%; 20.00% of the labelled cases is\)"),
        (0.02, r"2.00% was called foreground .* but 20.00% of the labelled cases is"),
        (0.8, "80.00% was called foreground"),
    ],
)
def test_a_lasting_collapse_is_told_once(value: float, words: str) -> None:
    said = told([0.2] * 4 + [value] * 10)
    assert [n for n, texts in enumerate(said, 1) if texts] == [9]  # the fifth epoch in a row
    (text,) = said[8]
    assert re.search(words, text), text
    # and again if it comes again
    assert sum(map(len, told([value] * 8 + [0.2] + [value] * 8))) == 2


@pytest.mark.parametrize("value", [0.03, 0.2, 0.7])
def test_what_is_usual_is_not_told(value: float) -> None:
    # odds of 0.2 are 1/4; those of 0.03 and 0.7 differ by less than ten times
    assert not any(told([value] * 20))


def test_an_interruption_or_an_early_phase_is_no_collapse() -> None:
    assert not any(told([0.2, *[0.0] * 4, 0.1, *[0.0] * 4, 0.2]))
    said = told([0.0] * 40, epochs=200)
    assert [n for n, texts in enumerate(said, 1) if texts] == [25]  # a tenth of the training, and five more
    assert not any(told([0.0] * 2 + [math.nan] + [0.0] * 4))


def test_a_label_that_vanishes_is_named() -> None:
    rows = [[0.1, 0.1]] * 5 + [[0.2, 0.0]] * 8
    said = told([0.2] * 13, coverage_by_label=rows)
    assert [n for n, texts in enumerate(said, 1) if texts] == [10]
    assert said[9] == ["never predicted in each of the last 5 epochs: right."]


def test_agreement_that_is_lost() -> None:
    agreement = [math.nan, 0.4, 0.8, 0.8] + [0.3] * 6
    said = told([0.2] * 10, agreement=agreement)
    assert [n for n, texts in enumerate(said, 1) if texts] == [9]
    assert "agreement of the two views was 0.30 in each of the last 5 epochs, after 0.80" in said[8][0]
    assert not any(told([0.2] * 10, agreement=[0.8] * 5 + [0.5] * 5))


def test_datasets_without_foreground_give_no_usual_coverage() -> None:
    nothing = Expected(0.0, (0.0, 0.0), ("left", "right"))
    assert collapses({"ssl_monitor/coverage": [0.3] * 9}, nothing, 10) == []


# Every method's pseudo-labels


def build(name: str) -> tuple[Method, nn.Module]:
    if name == "Supervised":
        return test_methods.supervised_method(TASKS), stock_network(4)
    if name == "VerSemi":
        return test_methods.versemi_method(TASKS), prompted_network(TASKS)
    if name == "MeanTeacher":
        return test_mean_teacher.method(), test_mean_teacher.networks()
    if name == "BCP":
        return test_bcp.method(), test_bcp.networks()
    if name == "BCP in its warm-up":
        return test_bcp.method(), teacher_and_student(stock_network(4), stock_network(4, seed=1), STUDENT)
    if name == "DBiSL":
        return test_dbisl.dbisl_method(TASKS), test_dbisl.dbisl_network(TASKS)
    if name == "ProPL":
        return test_propl.build(TASKS)
    alone = {"weight_auxiliary": 0.0} if name == "PICK without it" else {}
    return test_pick.pick_method(TASKS, **alone), test_pick.pick_network(TASKS)


VIEWS = {"Supervised": 1, "VerSemi": 2, "MeanTeacher": 2, "BCP": 2, "BCP in its warm-up": 1}
VIEWS |= {"DBiSL": 2, "ProPL": 2, "PICK": 2, "PICK without it": 1}


@pytest.mark.parametrize(("name", "count"), VIEWS.items())
def test_pseudo_labels_of_every_method(name: str, count: int) -> None:
    method, network = build(name)
    network.eval()
    images, tasks = make_batch(TASKS).unlabeled, torch.tensor([0, 1])
    assert images is not None
    with torch.no_grad():
        views = method.pseudo_labels(network, images, tasks, generator())
        predicted = network(images)[0]
    assert len(views) == count and views[0].shape == (2, 4, *SHAPES[2])
    if name == "BCP":  # it predicts by its student
        torch.testing.assert_close(views[1], predicted)
    elif name == "ProPL":  # each image is asked its own task's prompts only
        assert (views[0][0, 2:] == -50).all() and (views[0][1, 1] == -50).all()
    else:
        torch.testing.assert_close(views[0], predicted)
    seen = observe(views, TASKS)
    assert 0 <= seen.coverage <= 1 and math.isnan(seen.agreement) == (count == 1)
    if count == 2 and name != "VerSemi":
        assert not torch.equal(views[0], views[1])


# The monitor


def monitor(method: Method, said: list[str], hidden: tuple[Batch, ...] = (), **options: Any) -> Monitor:
    config = TrainingConfig(**{"num_epochs": 10, "num_iterations_per_epoch": 12, **options})
    wanted = Expected(0.2, (0.1, 0.05, 0.05), ("atrium", "front", "back"))
    return Monitor(method, TASKS, config, wanted, hidden, nullcontext, said.append)


def test_it_looks_at_batches_all_over_the_epoch() -> None:
    method, network = build("Supervised")
    said: list[str] = []
    watch = monitor(method, said, monitor_batches=4)
    looked = []
    for iteration in range(1, 13):
        before = len(watch._seen)
        watch.see(network, make_batch(TASKS, seed=iteration), iteration)
        looked += [iteration] * (len(watch._seen) - before)
    assert looked == [3, 6, 9, 12]
    values = watch.end_epoch(network, {})
    assert set(values) == {
        "ssl_monitor/coverage",
        "ssl_monitor/confidence",
        "ssl_monitor/coverage_by_label",
        "ssl_reference/coverage",
    }
    assert values["ssl_reference/coverage"] == 0.2 and len(values["ssl_monitor/coverage_by_label"]) == 3
    assert said[-1].startswith("pseudo-labels {'coverage': ")
    watch.see(network, make_batch(TASKS), 3)
    assert len(watch._seen) == 1  # the next epoch has begun


def test_nothing_to_see() -> None:
    method, network = build("Supervised")
    said: list[str] = []
    watch = monitor(method, said)
    watch.see(network, dataclasses.replace(make_batch(TASKS), unlabeled=None), 3)
    assert watch.end_epoch(network, {}) == {}
    watch = monitor(method, said, monitor_batches=0)
    watch.see(network, make_batch(TASKS), 3)
    assert watch.end_epoch(network, {}) == {}


def test_a_collapse_is_written_into_the_log() -> None:
    method, network = build("Supervised")
    network.decoder.seg_layers[-1].bias.data.copy_(torch.tensor([1e4, 0.0, 0.0, 0.0]))
    said: list[str] = []
    watch, history = monitor(method, said), {}
    for _ in range(10):
        watch.see(network, make_batch(TASKS), 12)
        for key, value in watch.end_epoch(network, history).items():
            history.setdefault(key, []).append(value)
    warnings = [line for line in said if line.startswith("WARNING")]
    assert warnings == [
        "WARNING: the pseudo-labels may have collapsed: they were empty in each of the last 5 epochs: "
        "nothing was called foreground."
    ]
    assert history["ssl_monitor/coverage"] == [0.0] * 10


def test_hidden_labels_are_scored_on_their_own_task() -> None:
    method, network = build("Supervised")
    patches = []
    for task in (0, 1):
        batch = make_batch(TASKS, tasks=[task])
        prediction = network(batch.labeled)[0].argmax(1, keepdim=True)
        own = TASKS.table.prompts_of(task)
        truth = torch.where(torch.isin(prediction, torch.tensor([k + 1 for k in own])), prediction, 0)
        patches.append(dataclasses.replace(batch, targets=[truth]))
    said: list[str] = []
    values = monitor(method, said, tuple(patches)).end_epoch(network, {})
    assert values == {"ssl_monitor/hidden_dice": 1.0}
    patches[1] = dataclasses.replace(patches[1], targets=[torch.zeros_like(patches[1].targets[0])])
    values = monitor(method, said, tuple(patches)).end_epoch(network, {})
    assert values["ssl_monitor/hidden_dice"] == pytest.approx(1 / 3)  # two labels predicted, none there


@pytest.mark.parametrize("name", VIEWS)
def test_it_disturbs_nothing(name: str) -> None:
    method, network = build(name)
    network.train()
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    hidden = make_batch(TASKS, tasks=[0])
    watch = monitor(method, [], (hidden,))
    batch = make_batch(TASKS)
    images = batch.unlabeled.clone()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    watch.see(network, batch, 12)
    watch.end_epoch(network, {})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert torch.equal(batch.unlabeled, images)
    assert all(p.grad is None for p in network.parameters())


def test_even_choice() -> None:
    assert _spread(range(10), 3) == [0, 3, 6] and _spread("ab", 5) == ["a", "b"] and _spread([], 3) == []


def test_options() -> None:
    assert {"monitor_batches", "monitor_hidden_labels"} <= set(FREE_OPTIONS)
    assert not TrainingConfig().monitor_hidden_labels  # an opt-in
    with pytest.raises(ConfigError, match="monitor_batches: expected 0 <= monitor_batches, got -1"):
        TrainingConfig(monitor_batches=-1)
