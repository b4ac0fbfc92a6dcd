"""PICK: its equations on a network written by hand, which parameters a term reaches, and bad input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from nnunet_ssl.config import check_known
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.masks import cube_grid_masks
from nnunet_ssl.methods import CONFIGS, pick
from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.methods.pick import AUXILIARY, MIM, PICK, PICKConfig
from nnunet_ssl.methods.supervised import Supervised
from nnunet_ssl.nn.multi_decoder import MultiDecoderUNet, detached_decoder
from nnunet_ssl.ramps import gaussian_ramp
from nnunet_ssl.training.previews import save_previews
from tests.unit import toy
from tests.unit.toy import (
    SHAPES,
    SPACES,
    Counting,
    as_targets,
    check_strips,
    generator,
    gradients,
    label_map,
    make_batch,
    nnunet_loss,
    step,
    stock_network,
    values,
)

LABELED = ("primary", "mim_labeled", "aux_labeled")
UNLABELED = ("mim_unlabeled", "aux_unlabeled")
WATCHED = tuple(f"{what}_{name}" for name in ("labeled", "unlabeled") for what in ("empty", "foreground"))
assert_sound = partial(toy.assert_sound, watched=WATCHED)
STRATEGIES = ("attentive", "background", "random_cubes", "random_block")


def pick_method(space, deep_supervision=True, batch_dice=False, **options):
    loss = nnunet_loss(space, deep_supervision, batch_dice)
    full_loss = loss.loss if deep_supervision else loss
    return PICK(PICKConfig(**options), loss, full_loss, space, deep_supervision)


def pick_network(space, dim=2, deep_supervision=True, decoders=(MIM, AUXILIARY)):
    channels = space.num_prompts + (0 if space.table.has_regions else 1)
    made = {
        MIM: detached_decoder(stock_network(1, dim, seed=1), deep_supervision=False),
        AUXILIARY: detached_decoder(stock_network(channels, dim, seed=2), deep_supervision),
    }
    planned = stock_network(channels, dim, deep_supervision)
    return MultiDecoderUNet(planned, **{name: made[name] for name in decoders})


# Any kind of data


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_kinds_of_targets_in_one_call(name, deep_supervision):
    space = SPACES[name]
    network = Counting(pick_network(space, deep_supervision=deep_supervision))
    batch = make_batch(space, deep_supervision=deep_supervision)
    terms = step(pick_method(space, deep_supervision), network, batch)
    assert network.calls == 1
    assert tuple(terms) == (*LABELED, "mim_unlabeled", "aux_unlabeled", *WATCHED)
    assert_sound(terms, network.network)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["one_class", "regions_ignore"])
def test_three_dimensions(name, strategy):
    network = pick_network(SPACES[name], 3)
    assert_sound(
        step(pick_method(SPACES[name], pick_mask=strategy), network, make_batch(SPACES[name], 3)), network
    )


@pytest.mark.parametrize(("tasks", "unlabeled"), [([0], 1), ([1], 3), ([0, 1, 1], 1), ([0] * 4, 2)])
def test_batch_sizes(tasks, unlabeled):
    space = SPACES["tasks"]
    network = pick_network(space)
    assert_sound(
        step(pick_method(space), network, make_batch(space, tasks=tasks, unlabeled=unlabeled)), network
    )


def predicting(network: MultiDecoderUNet, channel: int) -> MultiDecoderUNet:
    """Let the primary decoder see one class everywhere."""
    with torch.no_grad():
        network.decoder.seg_layers[-1].bias[channel] += 1e3
    return network


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("intensity", [None, 0.0, 1e4])
def test_empty_and_full_pseudo_labels_and_constant_images(channel, intensity, strategy):
    space = SPACES["ignore"]
    network, batch = predicting(pick_network(space), channel), make_batch(space)
    if intensity is not None:
        batch.labeled.fill_(intensity)
        batch.unlabeled.fill_(intensity)
    terms = step(pick_method(space, pick_mask=strategy), network, batch)
    assert_sound(terms, network)
    for name in ("labeled", "unlabeled"):
        assert terms[f"empty_{name}"][0].item() == 1 - channel
        assert terms[f"foreground_{name}"][0].item() == channel


def test_an_empty_pseudo_label_rebuilds_nothing_but_stays_connected():
    network = predicting(pick_network(SPACES["classes"]), 0)
    terms = step(pick_method(SPACES["classes"]), network, make_batch(SPACES["classes"]))
    for name in ("mim_labeled", "mim_unlabeled"):
        assert terms[name][0].item() == 0
        reached = gradients(terms[name][0], network)
        # deep supervision's lower layers aside, which the MIM decoder does not have
        assert {n for n, _ in network.named_parameters() if MIM in n or "encoder" in n} == set(reached)
        assert not any(g.any() for g in reached.values())


@pytest.mark.parametrize("value", ["background", "foreground", "ignored"])
def test_patches_of_one_label(value):
    space = SPACES["regions_ignore"]
    label = {"background": 0, "foreground": 1, "ignored": space.ignore_label}[value]
    labels = label_map(space, [0] * 4, SHAPES[2]).fill_(label)
    network = pick_network(space)
    assert_sound(
        step(pick_method(space), network, replace(make_batch(space), targets=as_targets(space, labels))),
        network,
    )


def test_masks_of_one_voxel(monkeypatch):
    space = SPACES["one_class"]

    def one_voxel(parts, images, count, space):
        primary, pseudo = predict(parts, images, count, space)
        pseudo = torch.zeros_like(pseudo)
        pseudo[..., 3, 5] = 1
        return primary, pseudo

    predict = pick.predict
    monkeypatch.setattr(pick, "predict", one_voxel)
    network = pick_network(space)
    terms = step(pick_method(space), network, make_batch(space))
    assert_sound(terms, network)
    assert terms["foreground_unlabeled"][0].item() == pytest.approx(1 / 256)
    assert terms["mim_unlabeled"][0].item() > 0


def test_the_smallest_patch_of_the_network():
    space, shape = SPACES["classes"], (8, 16)  # 1 x 2 voxels at the bottleneck
    labels = label_map(space, [0, 0], shape)
    images = torch.randn(2, 2, 1, *shape, generator=generator())
    batch = Batch(images[0], as_targets(space, labels), torch.tensor([0, 0]), images[1])
    network = pick_network(space)
    for strategy in STRATEGIES:
        assert_sound(step(pick_method(space, pick_mask=strategy), network, batch), network)


def test_mixed_precision():
    space = SPACES["tasks_ignore"]
    network, batch, method = pick_network(space), make_batch(space), pick_method(space)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step(method, network, batch)
    assert_sound(terms, network)
    assert all(value.dtype == torch.float32 for value, _ in terms.values())


def test_the_generator_is_the_only_randomness_and_input_is_left_alone():
    space = SPACES["tasks"]
    method, network = pick_method(space, pick_mask="random_cubes"), pick_network(space)
    batch, twin = make_batch(space), make_batch(space)
    before = torch.random.get_rng_state()
    once = values(step(method, network, batch, seed=3))
    assert once == values(step(method, network, batch, seed=3))
    assert torch.equal(before, torch.random.get_rng_state())
    other = values(step(method, network, batch, seed=4))
    assert all(once[name] != other[name] for name in (*LABELED, *UNLABELED))
    assert torch.equal(batch.labeled, twin.labeled) and torch.equal(batch.unlabeled, twin.unlabeled)
    assert all(torch.equal(a, b) for a, b in zip(batch.targets, twin.targets, strict=True))


# Which parameters a term reaches


def parts_reached(term, network):
    """Parts of the network with a gradient that is not 0."""
    reached = {
        n.removeprefix("training_only.seg_layers.") for n, g in gradients(term, network).items() if g.any()
    }
    return {n.split(".")[0] for n in reached}


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["tasks_ignore", "regions"])
def test_terms_reach_their_parts_only(name, strategy, through):
    space = SPACES[name]
    network = pick_network(space)
    method = pick_method(space, pick_mask=strategy, grad_through_reconstruction=through)
    terms = step(method, network, make_batch(space))
    aux = {"encoder", AUXILIARY} | ({MIM} if through else set())
    expected = {"primary": {"encoder", "decoder"}} | dict.fromkeys(
        ("mim_labeled", "mim_unlabeled"), {"encoder", MIM}
    )
    expected |= dict.fromkeys(("aux_labeled", "aux_unlabeled"), aux)
    assert {name: parts_reached(terms[name][0], network) for name in expected} == expected


def test_the_primary_decoder_learns_from_truth_only():
    """Its gradient of the whole loss is that of ``primary``; nothing about unlabelled images changes it."""
    space = SPACES["classes"]
    network, batch, method = pick_network(space), make_batch(space), pick_method(space)
    other = replace(batch, unlabeled=batch.unlabeled.flip(2) * 3)
    terms = step(method, network, batch)
    alone = gradients(terms["primary"][0], network)
    both = [gradients(total_loss(step(method, network, b)), network) for b in (batch, other)]
    names = [n for n in alone if n.startswith("decoder.") and alone[n].any()]
    assert len(names) > 10
    for name in names:
        for whole in both:
            torch.testing.assert_close(whole[name], alone[name], rtol=1e-4, atol=1e-6)
    assert any((both[0][n] - both[1][n]).abs().max() > 1e-4 for n in alone if n.startswith("encoder."))


def test_unlabelled_terms_depend_on_no_label():
    space = SPACES["classes"]
    network, batch, method = (
        pick_network(space),
        make_batch(space),
        pick_method(space, cutmix_probability=0.0),
    )
    poisoned = replace(batch, targets=[torch.randint_like(t, 4) for t in batch.targets])
    clean, other = (values(step(method, network, b)) for b in (batch, poisoned))
    same = {name for name in clean if clean[name] == other[name]}
    assert same == {*UNLABELED, *WATCHED, "mim_labeled"}


# Equations, on parts written by hand


class Written(nn.Module):
    """Encoder: the image. Primary: foreground where channel 0 > 0.5. MIM: 3. Auxiliary: that of twice it."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.parts = {MIM: lambda x: torch.full_like(x, 3.0, requires_grad=True), AUXILIARY: self.auxiliary}

    def encoder(self, x):
        self.seen.append(x.detach())
        return x

    def decoder(self, x):
        return torch.cat([torch.full_like(x[:, :1], 0.5), x[:, :1]], 1)

    def auxiliary(self, x):
        return self.decoder(2 * x)

    def extra(self, name):
        return self.parts[name]

    def forward(self, x, run=None):
        return self.decoder(self.encoder(x)) if run is None else run(self, x)


def written_step(channels=1, **options):
    """Two labelled and two unlabelled samples, the last without foreground: terms, what was seen, images."""
    space = SPACES["one_class"]
    images = torch.randn(4, channels, *SHAPES[2], generator=generator())
    images[3, 0] = -1.0
    labels = label_map(space, [0, 0], SHAPES[2])
    batch = Batch(images[:2], [labels], torch.tensor([0, 0]), images[2:])
    method = pick_method(space, deep_supervision=False, cutmix_probability=0.0, **options)
    network = Written()
    return step(method, network, batch), network.seen, images, labels


@pytest.mark.parametrize("channels", [1, 2])
def test_predict_mask_rebuild_segment(channels):
    terms, seen, images, labels = written_step(channels)
    hidden = (images[:, :1] > 0.5).expand_as(images)
    assert [len(s) for s in seen] == [2, 2, 4, 4]  # labelled with graph, unlabelled without, then all at once
    assert torch.equal(seen[2], images * ~hidden)  # eqs. 2 and 6
    assert torch.equal(seen[3], torch.where(hidden, 3.0, images))  # eqs. 4 and 9
    each = [(3 - i)[h].abs().mean().item() if h.any() else 0.0 for i, h in zip(images, hidden, strict=True)]
    assert terms["mim_labeled"][0].item() == pytest.approx((each[0] + each[1]) / 2, rel=1e-6)  # eq. 8
    assert terms["mim_unlabeled"][0].item() == pytest.approx((each[2] + 0) / 2, rel=1e-6)
    loss, parts = nnunet_loss(SPACES["one_class"], deep_supervision=False), Written()
    segmented, pseudo = parts.auxiliary(seen[3]), hidden[:, :1].long()
    assert torch.equal(terms["primary"][0], loss(parts.decoder(images[:2]), labels))
    assert torch.equal(terms["aux_labeled"][0], loss(segmented[:2], labels))  # eq. 11: truth
    assert torch.equal(terms["aux_unlabeled"][0], loss(segmented[2:], pseudo[2:]))  # eq. 9: pseudo-label
    assert terms["empty_labeled"][0] == 0 and terms["empty_unlabeled"][0] == 0.5
    share = hidden[:2, :1].float().mean().item()
    assert terms["foreground_labeled"][0].item() == pytest.approx(share)


def test_background_masking_is_the_rest():
    _, seen, images, _ = written_step(pick_mask="background")
    assert torch.equal(seen[2], images * (images > 0.5))


@pytest.mark.parametrize("strategy", ["random_cubes", "random_block"])
def test_random_masks_do_not_follow_the_prediction(strategy):
    _, seen, images, _ = written_step(pick_mask=strategy)
    masked = (seen[2] == 0)[:, 0]
    assert masked.flatten(1).float().mean(1).tolist() == pytest.approx([0.6] * 4, abs=0.1)
    assert len(masked.flatten(1).unique(dim=0)) > 1  # drawn per sample


def test_table_6_row_2_without_the_auxiliary_decoder():
    terms, seen, _, _ = written_step(weight_auxiliary=0.0)
    assert tuple(terms) == ("primary", "mim_labeled", "mim_unlabeled", *WATCHED)
    assert [len(s) for s in seen] == [2, 2, 4]


def test_table_6_row_3_segments_the_masked_image():
    terms, seen, images, _ = written_step(weight_mim=0.0)
    assert tuple(terms) == ("primary", "aux_labeled", "aux_unlabeled", *WATCHED)
    assert torch.equal(seen[2], images * (images <= 0.5))
    assert len(seen) == 3


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_table_6_row_1_is_the_supervised_baseline(name, deep_supervision):
    space = SPACES[name]
    method = pick_method(
        space, deep_supervision, weight_mim=0.0, weight_auxiliary=0.0, cutmix_probability=0.0
    )
    assert not method.uses_unlabeled and method.config.decoders == ()
    network = pick_network(space, 2, deep_supervision, decoders=())
    batch = make_batch(space, deep_supervision=deep_supervision)
    terms = step(method, network, batch)
    supervised = Supervised(nnunet_loss(space, deep_supervision), space, deep_supervision)
    expected = total_loss(step(supervised, network, batch))
    assert tuple(terms) == ("primary",) and torch.equal(total_loss(terms), expected)
    mine, theirs = (gradients(loss, network) for loss in (total_loss(terms), expected))
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs)


# Schedule and options


@pytest.mark.parametrize("progress", [0.0, 0.29])
def test_warm_up_is_labelled_only(progress):
    batch = replace(make_batch(SPACES["tasks"]), unlabeled=None)
    terms = step(pick_method(SPACES["tasks"]), pick_network(SPACES["tasks"]), batch, progress=progress)
    assert tuple(terms) == (*LABELED, *WATCHED[:2])


def test_after_the_warm_up_unlabelled_images_are_missed():
    batch = replace(make_batch(SPACES["tasks"]), unlabeled=None)
    with pytest.raises(ValueError, match="unlabelled images"):
        step(pick_method(SPACES["tasks"]), pick_network(SPACES["tasks"]), batch, progress=0.3)


@pytest.mark.parametrize("progress", [0.25, 0.4, 0.45, 0.9])
def test_weights_and_ramp(progress):
    options = {"weight_mim": 2.0, "weight_auxiliary": 3.0, "weight_unlabeled": 0.5}
    method = pick_method(SPACES["classes"], warmup=0.25, ramp_length=0.2, **options)
    terms = step(method, pick_network(SPACES["classes"]), make_batch(SPACES["classes"]), progress=progress)
    ramp = 0.5 * gaussian_ramp(progress - 0.25, 0.2)
    assert [terms[name][1] for name in LABELED] == [1.0, 2.0, 3.0]
    assert [terms[name][1] for name in UNLABELED] == pytest.approx([2 * ramp, 3 * ramp])
    expected = sum(value * weight for value, weight in terms.values())
    assert total_loss(terms).item() == pytest.approx(expected.item(), rel=1e-6)


def test_defaults_are_the_papers():
    method = pick_method(SPACES["classes"])
    terms = step(method, pick_network(SPACES["classes"]), make_batch(SPACES["classes"]), progress=0.3)
    assert [w for _, w in terms.values() if w] == [1.0, 0.2, 1.0, 0.2, 1.0]
    assert method.config.pick_mask == "attentive" and not method.config.grad_through_reconstruction
    assert PICKConfig in CONFIGS
    check_known(["pick_mask", "warmup", "ramp_length", "cutmix_probability"], CONFIGS)


@pytest.mark.parametrize("options", [{"warmup": 1.0}, {"weight_unlabeled": 0.0}])
def test_without_unlabelled_terms_no_unlabelled_data_is_asked_for(options):
    method = pick_method(SPACES["classes"], **options)
    assert not method.uses_unlabeled
    batch = replace(make_batch(SPACES["classes"]), unlabeled=None)
    assert set(step(method, pick_network(SPACES["classes"]), batch, progress=1.0)) == {*LABELED, *WATCHED[:2]}


@pytest.mark.parametrize(
    "option",
    [{"warmup": 1.2}, {"weight_mim": -1.0}, {"cutmix_probability": 2.0}, {"pick_mask_share": float("nan")}],
)
def test_options_out_of_range(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        PICKConfig(**option)


# CutMix of labelled samples


def mixed_step(space, tasks, probability, seed=0):
    """A step where image = label value, so that images tell what labels must be. Returns both as judged."""
    labels = label_map(space, tasks, SHAPES[2], seed=1)
    made = make_batch(space, tasks=tasks)
    batch = replace(made, labeled=labels.float(), targets=as_targets(space, labels))
    method, judged, seen = pick_method(space, cutmix_probability=probability), [], []
    method._truth_loss = lambda outputs, targets, tasks: judged.append(targets) or outputs[0].sum()
    network = pick_network(space)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    step(method, network, batch, seed=seed)
    return seen[0][: len(tasks)], judged[0], batch


@pytest.mark.parametrize("name", ["ignore", "regions_ignore", "three_tasks"])
def test_cutmix_mixes_images_and_targets_alike(name):
    space = SPACES[name]
    tasks = [0, 0, 0, 0] if len(space.table) == 1 else [1, 0, 1, 2]
    images, targets, batch = mixed_step(space, tasks, probability=1.0)
    assert torch.equal(batch.labeled, label_map(space, tasks, SHAPES[2], seed=1).float())
    for mine, expected in zip(targets, as_targets(space, images.short()), strict=True):
        assert torch.equal(mine, expected)
    changed = (images != batch.labeled).flatten(1).any(1).tolist()
    # with one of its own task only: the second and the last are alone in theirs
    assert changed == ([True] * 4 if len(space.table) == 1 else [True, False, True, False])


def test_cutmix_probability():
    space, tasks = SPACES["classes"], [0] * 4
    images, targets, batch = mixed_step(space, tasks, probability=0.0)
    assert torch.equal(images, batch.labeled) and targets is batch.targets
    mixed = 0
    for seed in range(40):
        images, _, batch = mixed_step(space, tasks, 0.5, seed)
        mixed += int((images != batch.labeled).flatten(1).any(1).sum())
    assert 50 <= mixed <= 95  # of 160; a box of any size can miss what differs


# Masks of Table 7


@pytest.mark.parametrize(
    "shape", [(32, 48), (48, 32, 64), (40, 50), (24, 40, 48), (16, 16), (8, 16, 16), (1, 7), (1, 1)]
)
def test_cubes_of_the_grid(shape):
    masks = cube_grid_masks(20, shape, 0.6, generator())
    before = torch.random.get_rng_state()
    assert torch.equal(masks, cube_grid_masks(20, shape, 0.6, generator()))
    assert torch.equal(before, torch.random.get_rng_state())
    assert masks.shape == (20, 1, *shape) and set(masks.unique().tolist()) <= {0.0, 1.0}
    edge = next(e for e in (16, 8, 4, 2, 1) if e == 1 or max(shape) >= 2 * e)
    cells = masks[(..., *[slice(None, None, edge)] * len(shape))]
    grown = cells
    for axis, length in enumerate(shape, start=2):
        grown = grown.repeat_interleave(edge, axis).narrow(axis, 0, length)
    assert torch.equal(grown, masks)  # whole cubes
    count = cells[0].numel()
    assert ((1 - cells).flatten(1).sum(1) == round(0.6 * count)).all()
    assert len(masks.flatten(1).unique(dim=0)) > 1 or count == 1
    if count > 1:
        assert (masks.amin(0) == 0).all() and (masks.amax(0) == 1).all()  # each cube now and then


def test_cubes_all_or_nothing():
    assert cube_grid_masks(2, (20, 20), 0.0, generator()).all()
    assert not cube_grid_masks(2, (20, 20), 1.0, generator()).any()


# Pictures


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["ignore", "regions_ignore"])
def test_preview(name, dim, tmp_path):
    space = SPACES[name]
    network, batch = pick_network(space, dim).eval(), make_batch(space, dim)
    with torch.no_grad():
        strips = pick_method(space).preview(network, batch, generator())
    rest = ["pseudo-label", "mask", "masked", "rebuilt", "auxiliary"]
    for image, shown in check_strips(strips, batch, rest):
        hidden = shown["pseudo-label"] != 0
        assert torch.equal(shown["mask"].bool(), hidden)
        assert torch.equal(shown["masked"], torch.where(hidden, 0.0, image))
        assert torch.equal(shown["rebuilt"] == image, ~hidden)
    save_previews(strips, tmp_path / "strip.png")
    assert (tmp_path / "strip.png").is_file()


def test_preview_without_decoders_or_unlabelled_images():
    space, batch = SPACES["classes"], make_batch(SPACES["classes"])
    with torch.no_grad():
        assert (
            pick_method(space, weight_mim=0.0, weight_auxiliary=0.0).preview(None, batch, generator()) == []
        )
        alone = replace(batch, unlabeled=None)
        strips = pick_method(space, weight_mim=0.0).preview(pick_network(space), alone, generator())
    assert [p.title for p in strips[0]] == [
        "labelled",
        "truth",
        "pseudo-label",
        "mask",
        "masked",
        "auxiliary",
    ]
