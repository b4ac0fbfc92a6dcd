"""ProPL on toy networks: pseudo-labels, what reaches what, the official code's variants, bad input."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.errors import ConfigError, TaskError
from nnunet_ssl.losses.uplc import calibrate, mean_and_variance, sample_dropout
from nnunet_ssl.methods import propl
from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.methods.propl import ProPL, ProPLConfig
from nnunet_ssl.ramps import gaussian_ramp
from tests.unit import toy
from tests.unit.gloo import RANKS, in_processes
from tests.unit.test_prompting import network
from tests.unit.toy import (
    SCALE_WEIGHTS,
    SPACES,
    Counting,
    as_targets,
    dice_ce,
    generator,
    gradients,
    label_map,
    make_batch,
    step,
    values,
)

OPTIONS = {
    "paper": {},
    "channel dropout": {"perturbation_kind": "channel"},
    "four passes": {"perturbations": 4},
    "no UPLC": {"perturbations": 0},
    "calibration off": {"calibration": "off"},
    "official": {
        "calibration": "squared_variance",
        "pseudo_threshold": 0.5,
        "weight_unlabeled": 6.0,
        "dropout_labeled": True,
    },
    "supervised": {"weight_unlabeled": 0.0},
}
EACH = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
UNLABELED = {name: options for name, options in OPTIONS.items() if name != "supervised"}
EACH_UNLABELED = pytest.mark.parametrize("options", UNLABELED.values(), ids=UNLABELED.keys())
WATCHED = ("uncertainty", "pseudo_foreground")
assert_sound = partial(toy.assert_sound, watched=WATCHED)


def build(space, dim=2, deep_supervision=True, batch_dice=False, **options):
    config = ProPLConfig(**options)
    made = network(space, dim, deep_supervision, decoders=config.decoders, inference=config.inference)
    weights = SCALE_WEIGHTS if deep_supervision else (1.0,)
    return ProPL(config, space, weights, made.bottleneck, batch_dice), made


# Pseudo-labels


def test_uplc_by_hand():
    mean, variance = mean_and_variance(torch.tensor([1.0, 0.1]))
    assert mean.item() == pytest.approx(0.55)
    assert variance.item() == pytest.approx(0.2025)
    assert calibrate(mean, variance).item() == pytest.approx(0.4492, abs=5e-5)
    assert calibrate(mean, variance, "squared_variance").item() == pytest.approx(
        0.55 * math.exp(-(0.2025**2))
    )
    assert calibrate(mean, variance, "off").item() == pytest.approx(0.55)
    assert calibrate(mean, variance, "variance", 0.5).item() == 0.0
    assert calibrate(mean, variance, "squared_variance", 0.5).item() == 1.0  # 0.528


def test_variance_damps_by_a_fifth_at_most():
    predictions = torch.rand(4, 1000, generator=generator())
    predictions[:2, 0], predictions[2:, 0] = 0, 1  # as far apart as they can be
    mean, variance = mean_and_variance(predictions)
    assert variance.max() == variance[0] == 0.25
    assert (calibrate(mean, variance) / mean).min().item() == pytest.approx(math.exp(-0.25))
    assert math.exp(-0.25) == pytest.approx(0.7788, abs=1e-4)


def test_agreement_is_not_damped():
    mean, variance = mean_and_variance(torch.tensor([[0.3, 0.9]]).expand(3, -1))
    assert torch.equal(calibrate(mean, variance), mean)
    assert not mean_and_variance(torch.rand(1, 5))[1].any()


def test_dropout_factors():
    factors = sample_dropout("element", 2, 3, (64, 8, 8), 0.3, generator())
    assert factors.shape == (2, 3, 64, 8, 8)
    assert {round(v, 4) for v in factors.unique().tolist()} == {0.0, round(1 / 0.7, 4)}
    assert factors.mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(factors[0], factors[1])
    channels = sample_dropout("channel", 2, 3, (64, 8, 8, 8), 0.3, generator())
    assert channels.shape == (2, 3, 64, 1, 1, 1)
    assert (sample_dropout("element", 1, 1, (4, 2, 2), 0.0, generator()) == 1).all()
    assert sample_dropout("element", 0, 3, (4, 2, 2), 0.3, generator()).shape == (0, 3, 4, 2, 2)


# A step


def assert_step_is_sound(name, options, dim=2, deep_supervision=True, **more):
    method, made = build(SPACES[name], dim, deep_supervision, **more, **options)
    callee = Counting(made)
    terms = step(method, callee, make_batch(SPACES[name], dim, deep_supervision=deep_supervision))
    assert callee.calls == 1
    expected = ("labeled", "unlabeled", *WATCHED) if method.uses_unlabeled else ("labeled",)
    assert tuple(terms) == expected
    assert_sound(terms, made)


@EACH
@pytest.mark.parametrize("dim", [2, 3])
def test_one_call_and_sound_terms(options, dim):
    assert_step_is_sound("tasks_ignore", options, dim)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_kinds_of_targets(name, batch_dice):
    assert_step_is_sound(name, {}, batch_dice=batch_dice)


@pytest.mark.parametrize("dim", [2, 3])
def test_without_deep_supervision(dim):
    assert_step_is_sound("regions_ignore", {}, dim, deep_supervision=False)


@pytest.mark.parametrize(("tasks", "unlabeled"), [([0], 1), ([1], 3), ([0, 1, 1], 1), ([0] * 4, 2)])
def test_batch_sizes(tasks, unlabeled):
    method, made = build(SPACES["tasks"])
    assert_sound(step(method, made, make_batch(SPACES["tasks"], tasks=tasks, unlabeled=unlabeled)), made)


@pytest.mark.parametrize("name", ["one_class", "tasks_ignore", "regions_ignore"])
@pytest.mark.parametrize("value", ["background", "foreground", "ignored"])
def test_patches_of_one_label(name, value):
    space = SPACES[name]
    label = {"background": 0, "foreground": 1, "ignored": space.ignore_label or 0}[value]
    method, made = build(space)
    batch = make_batch(space, tasks=[0, 0])
    labels = label_map(space, [0, 0], (16, 16)).fill_(label)
    assert_sound(step(method, made, replace(batch, targets=as_targets(space, labels))), made)


@EACH
@pytest.mark.parametrize("intensity", [0.0, 1e4])
def test_constant_images(options, intensity):
    method, made = build(SPACES["tasks"], **options)
    batch = make_batch(SPACES["tasks"])
    batch.labeled.fill_(intensity)
    batch.unlabeled.fill_(intensity)
    assert_sound(step(method, made, batch), made)


@EACH
@pytest.mark.parametrize("factor", [20, 1e-4])
def test_extreme_predictions(options, factor):
    method, made = build(SPACES["tasks"], **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(factor)
    assert_sound(step(method, made, make_batch(SPACES["tasks"])), made)


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_empty_and_full_pseudo_labels(bias):
    method, made = build(SPACES["tasks"])
    made.decoder.seg_layers[-1].weight.data.zero_()
    made.decoder.seg_layers[-1].bias.data.fill_(bias)
    terms = step(method, made, make_batch(SPACES["tasks"]))
    assert_sound(terms, made)
    assert terms["pseudo_foreground"][0].item() == pytest.approx(float(bias > 0))
    assert terms["uncertainty"][0].item() == 0


def test_labeled_term_by_hand():
    space = SPACES["tasks_ignore"]
    method, made = build(space, deep_supervision=False)
    batch = make_batch(space, deep_supervision=False)  # tasks 0, 1, 0, 1; task 1 has two prompts
    pairs = [(0, 0), (1, 1), (1, 2), (2, 0), (3, 1), (3, 2)]
    expected = 0.0
    with torch.no_grad():
        skips = made.encoder(batch.labeled)
        for sample, prompt in pairs:
            z = made.decode("sd", [s[sample : sample + 1] for s in skips], torch.tensor([prompt]))[0][0]
            target = batch.targets[0][sample, 0]
            weight = 1 / 4 if prompt == 0 else 1 / 8
            expected += weight * dice_ce(z, target == prompt + 1, target != 4)
    terms = step(method, made, batch)
    assert terms["labeled"][0].item() == pytest.approx(expected, rel=1e-4)
    assert terms["labeled"][1] == 1


@pytest.mark.parametrize("name", ["paper", "channel dropout", "four passes", "no UPLC", "official"])
def test_unlabeled_term_by_hand(name):
    space, options = SPACES["tasks"], OPTIONS[name]
    method, made = build(space, **options)
    batch = make_batch(space, unlabeled=3)  # tasks 0, 1, 0
    draw, config = generator(0), method.config
    kind, shape = config.perturbation_kind, (8, 2, 2)
    if config.dropout_labeled:
        sample_dropout(kind, 1, 4, shape, 0.3, draw)
    factors = sample_dropout(kind, config.perturbations, 3, shape, 0.3, draw)
    maps = []
    with torch.no_grad():
        skips = made.encoder(batch.unlabeled)
        for sample, prompt, weight in [(0, 0, 1 / 3), (1, 1, 1 / 6), (1, 2, 1 / 6), (2, 0, 1 / 3)]:
            own = [s[sample : sample + 1] for s in skips]
            asked = torch.tensor([prompt])
            passes = [own[-1] * f[sample] for f in factors] or [own[-1]]
            p = torch.stack([torch.sigmoid(made.decode("sd", [*own[:-1], v], asked)[0][0]) for v in passes])
            mu, gamma = p.mean(0), ((p - p.mean(0)) ** 2).mean(0)
            damped = mu * torch.exp(-(gamma**2 if name == "official" else gamma))
            target = (damped > 0.5).float() if name == "official" else damped
            maps.append((weight, made.decode("pd", own, asked)[0][0], target, gamma))
    terms = step(method, made, batch)
    expected = sum(w * soft_dice_ce(z, y) for w, z, y, _ in maps)
    assert terms["unlabeled"][0].item() == pytest.approx(expected, rel=1e-4)
    uncertainty = torch.stack([g for *_, g in maps]).mean().item()
    assert terms["uncertainty"][0].item() == pytest.approx(uncertainty, rel=1e-3, abs=1e-9)
    assert (uncertainty > 0) == (name != "no UPLC")
    weight = 6 if name == "official" else 1
    assert terms["unlabeled"][1] == pytest.approx(weight * gaussian_ramp(0.5, 0.4))


def soft_dice_ce(z, y):
    p, y = torch.sigmoid(z.double()), y.double()
    dice = (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)
    return float(1 - dice - (y * p.log() + (1 - y) * (1 - p).log()).mean())


def test_ramp():
    method, made = build(SPACES["tasks"], ramp_length=0.5, weight_unlabeled=2.0)
    weights = [step(method, made, make_batch(SPACES["tasks"]), progress=p)["unlabeled"][1] for p in (0, 0.5)]
    assert weights == pytest.approx([2 * math.exp(-5), 2.0])


def test_seeds():
    method, made = build(SPACES["tasks"])
    batch, before = make_batch(SPACES["tasks"]), torch.random.get_rng_state()
    once = values(step(method, made, batch))
    assert once == values(step(method, made, batch))
    assert torch.equal(before, torch.random.get_rng_state())  # the generator is the only randomness
    other = values(step(method, made, batch, seed=1))
    assert [name for name in once if once[name] == other[name]] == ["labeled"]


def test_seed_of_labelled_dropout():
    method, made = build(SPACES["tasks"], dropout_labeled=True)
    batch = make_batch(SPACES["tasks"])
    assert values(step(method, made, batch))["labeled"] != values(step(method, made, batch, 1))["labeled"]


@pytest.mark.parametrize("name", ["paper", "official"])
def test_mixed_precision(name):
    method, made = build(SPACES["tasks_ignore"], **OPTIONS[name] | {"pseudo_threshold": None})
    batch = make_batch(SPACES["tasks_ignore"])
    exact = values(step(method, made, batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step(method, made, batch)
    assert_sound(terms, made)
    assert all(value.dtype == torch.float32 for value, _ in terms.values())
    assert values(terms) == pytest.approx(exact, rel=0.1, abs=0.02)


def test_mixed_precision_loses_no_gradient():
    """Autocast keeps weights that were cast without a graph; sd has passes of both kinds."""
    method, made = build(SPACES["tasks"])
    batch = make_batch(SPACES["tasks"])
    exact = gradients(total_loss(step(method, made, batch)), made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step(method, made, batch)
    assert gradients(total_loss(terms), made).keys() == exact.keys()


# What reaches what


def reached(value, made):
    return {part_of(name) for name, g in gradients(value, made).items() if g.any()}


def part_of(name):
    return name.removeprefix("prompted.seg_layers.").split(".")[0]


def test_truth_teaches_sd_and_pseudo_labels_teach_pd():
    method, made = build(SPACES["tasks"])
    terms = step(method, made, make_batch(SPACES["tasks"]))
    assert reached(terms["labeled"][0], made) == {"encoder", "decoder", "layers_sd"}
    assert reached(terms["unlabeled"][0], made) == {"encoder", "pd", "layers_pd"}


@EACH_UNLABELED
def test_no_pseudo_label_carries_a_gradient(options):
    method, made = build(SPACES["tasks"], **options)
    terms = step(method, made, make_batch(SPACES["tasks"]))
    assert not {n for n in gradients(terms["unlabeled"][0], made) if part_of(n) in ("decoder", "layers_sd")}
    assert all(not terms[name][0].requires_grad for name in WATCHED)


def test_learned_tokens_learn_from_both():
    made = network(SPACES["tasks"], learned=True)
    method = ProPL(ProPLConfig(), SPACES["tasks"], SCALE_WEIGHTS, made.bottleneck)
    terms = step(method, made, make_batch(SPACES["tasks"]))
    assert "prompts" in reached(terms["labeled"][0], made)
    assert "prompts" in reached(terms["unlabeled"][0], made)


def test_every_parameter_learns():
    """As distributed training wants it; nnU-Net's weights under DDP are never 0."""
    for options in ({}, {"weight_unlabeled": 0.0}):
        method, made = build(SPACES["tasks"], **options)
        method.scale_weights = (0.6, 0.3, 1e-6)
        found = gradients(total_loss(step(method, made, make_batch(SPACES["tasks"]))), made)
        assert set(found) == {name for name, _ in made.named_parameters()}


def test_unlabeled_term_depends_on_no_label():
    method, made = build(SPACES["tasks"])
    batch = make_batch(SPACES["tasks"])
    poisoned = replace(batch, targets=[torch.randint_like(t, 4) for t in batch.targets])
    clean, other = (values(step(method, made, b)) for b in (batch, poisoned))
    assert [n for n in clean if clean[n] != other[n]] == ["labeled"]


def test_labeled_term_does_not_depend_on_unlabeled_images():
    method, made = build(SPACES["tasks"])
    batch = make_batch(SPACES["tasks"])
    other = replace(batch, unlabeled=batch.unlabeled.flip(0, 2))
    one, two = (step(method, made, b)["labeled"][0].item() for b in (batch, other))
    assert one == pytest.approx(two, rel=1e-6)


def test_other_tasks_do_not_matter():
    """A case has no say on the labels of other tasks: they are unknown in it, not background."""
    space = SPACES["tasks"]
    method, made = build(space)
    batch = make_batch(space, tasks=[0, 0])
    targets = [t.clone() for t in batch.targets]
    for t in targets:
        t[(t == 0)] = 2  # front, a label of the other task
    one, two = (step(method, made, b)["labeled"][0].item() for b in (batch, replace(batch, targets=targets)))
    assert one == two


def test_without_unlabeled_data_it_is_the_supervised_prompted_network():
    space = SPACES["tasks"]
    method, made = build(space, weight_unlabeled=0.0)
    batch = make_batch(space)
    assert not method.uses_unlabeled
    assert (method.config.decoders, method.config.inference) == (("sd",), "sd")
    alone = step(method, made, replace(batch, unlabeled=None, unlabeled_tasks=None))
    full, both = build(space)
    assert values(alone)["labeled"] == pytest.approx(values(step(full, both, batch))["labeled"], rel=1e-5)


@pytest.mark.parametrize("passes", [0, 2, 4])
def test_passes(passes):
    """One pass of the encoder; sd once for truth and N times without graph, pd once."""
    method, made = build(SPACES["tasks"], perturbations=passes)
    runs = []
    parts = {"encoder": made.encoder, "sd": made.decoder.stages[0]}
    parts["pd"] = made.prompted["seg_layers"]["pd"].stages[0]
    for name, part in parts.items():
        part.register_forward_hook(
            lambda m, i, o, name=name: runs.append((name, torch.is_grad_enabled(), len(i[0])))
        )
    step(method, made, make_batch(SPACES["tasks"], tasks=[0, 1], unlabeled=4))
    # two labelled samples are 3 pairs, four unlabelled ones 6
    no_graph = [("sd", False, 6)] * max(passes, 1)
    assert runs == [("encoder", True, 6), ("sd", True, 3), *no_graph, ("pd", True, 6)]


def test_training_finds_the_object_of_the_prompt():
    """Both tasks on the same images: only the prompt says whether the bright or the dark part is meant."""
    space = SPACES["tasks"]
    method, made = build(space, deep_supervision=False, ramp_length=0.0)
    part = torch.zeros(1, 1, 16, 16)
    part[..., :8], part[..., 8:12] = 1, -1
    images = part.repeat(2, 1, 1, 1) + 0.1 * torch.randn(2, 1, 16, 16, generator=generator())
    targets = torch.cat([part > 0.5, 2 * (part < -0.5)]).short()
    tasks = torch.tensor([0, 1])
    batch = Batch(images, [targets], tasks, images.flip(0), tasks)
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for n in range(80):
        optimizer.zero_grad()
        total_loss(step(method, made, batch, seed=n, progress=1.0)).backward()
        optimizer.step()
    for one_task, target in zip([[1, 0, 0], [0, 1, 0]], targets, strict=True):
        made.ask(torch.tensor(one_task, dtype=torch.bool))
        with torch.no_grad():  # pd, which has never seen truth
            prediction = made(images).argmax(1)
        right = (prediction == target).float().mean()
        assert right > 0.95, right


# Pictures


@pytest.mark.parametrize("dim", [2, 3])
def test_preview(dim):
    method, made = build(SPACES["tasks"], dim)
    batch = make_batch(SPACES["tasks"], dim, unlabeled=4)
    with torch.no_grad():
        strips = method.preview(made.eval(), batch, generator())
    assert len(strips) == 3  # one of each prompt
    for strip in strips:
        image, mean, uncertainty, target, pd = (panel.values for panel in strip)
        assert all(p.values.shape == image.shape and len(image.shape) == dim for p in strip)
        assert torch.allclose(target, mean * torch.exp(-uncertainty / 4), atol=1e-6)
        assert all(0 <= v.min() and v.max() <= 1 for v in (mean, uncertainty, target, pd))
    assert [strip[0].title for strip in strips] == ["image: atrium?", "image: front?", "image: back?"]


def test_no_preview_without_unlabeled_data():
    method, made = build(SPACES["tasks"], weight_unlabeled=0.0)
    assert method.preview(made, make_batch(SPACES["tasks"]), generator()) == []


# Bad input


def test_image_of_unknown_task():
    method, made = build(SPACES["tasks"])
    batch = replace(make_batch(SPACES["tasks"]), unlabeled_tasks=torch.tensor([0, -1]))
    with pytest.raises(TaskError, match="task of every image"):
        step(method, made, batch)


def test_missing_unlabeled_images():
    method, made = build(SPACES["tasks"])
    with pytest.raises(ValueError, match="unlabelled"):
        step(method, made, replace(make_batch(SPACES["tasks"]), unlabeled=None))


@pytest.mark.parametrize(
    "options",
    [
        {"perturbations": -1},
        {"perturbation_dropout": 1.0},
        {"pseudo_threshold": 1.5},
        {"weight_unlabeled": -1.0},
        {"prompted_voxels": 0},
        {"stage_text_tokens": ()},
        {"stage_text_tokens": (24, 0)},
        {"timm_weights": "weights.pth"},
    ],
    ids=str,
)
def test_bad_options(options):
    with pytest.raises(ConfigError):
        ProPLConfig(**options)


def test_unlabeled_cases_must_have_a_task():
    """The trainer asks the config, but it is no option of ProPL."""
    assert ProPLConfig().task_info is True
    assert "task_info" not in [field.name for field in dataclasses.fields(ProPLConfig)]


# Compiled


def test_compiled_step_and_prediction():
    torch.compiler.reset()
    method, made = build(SPACES["tasks"])
    batch = make_batch(SPACES["tasks"])
    callee = torch.compile(made, backend="eager", fullgraph=True)
    truth = values(step(method, made, batch))
    for _ in range(2):  # train, predict, train
        assert values(step(method, callee, batch)) == pytest.approx(truth, rel=1e-5)
        with torch.no_grad():
            for one, other in zip(callee(batch.labeled), made(batch.labeled), strict=True):
                assert torch.allclose(one, other, atol=1e-5)
    made.ask(torch.tensor([False, True, False]))
    with torch.no_grad():
        for one, other in zip(callee(batch.labeled), made(batch.labeled), strict=True):
            assert torch.allclose(one, other, atol=1e-5)


# Two processes give the gradients of one with the same global batch


class DropoutBySample:
    """Stands in for ``sample_dropout``: the global batch's factors of this rank's samples."""

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, kind, passes, samples, shape, share, draw):
        return sample_dropout(kind, passes, 4, shape, share, draw)[:, self.rows]


def train(rows, wrap=lambda n: n):
    propl.sample_dropout = DropoutBySample(rows)
    space = SPACES["tasks"]
    method, made = build(space)
    method.scale_weights = (0.6, 0.3, 1e-6)
    callee = wrap(made)
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    for n in range(2):
        full = make_batch(space, tasks=[0, 0, 1, 1], unlabeled=4, seed=n)
        batch = Batch(
            full.labeled[rows],
            [t[rows] for t in full.targets],
            full.tasks[rows],
            full.unlabeled[rows],
            torch.tensor([0, 0, 1, 1])[rows],
        )
        optimizer.zero_grad()
        total_loss(method.losses(callee, batch, 1.0, generator(n))).backward()
        optimizer.step()
    return [p.grad for p in made.parameters()], [p.detach() for p in made.parameters()]


def train_part(rank):
    return train([rank, rank + RANKS], DistributedDataParallel)


@pytest.mark.integration
def test_two_processes_equal_one(tmp_path, monkeypatch):
    monkeypatch.setattr(propl, "sample_dropout", sample_dropout)  # restored afterwards
    one = train([0, 1, 2, 3])
    for two in in_processes(train_part, tmp_path):
        for mine, theirs in zip([*one[0], *one[1]], [*two[0], *two[1]], strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)
