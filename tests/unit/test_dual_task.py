"""Two tasks of one network: distance labels, maps, votes, and the losses that tie them."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.distance import distance_to, seg_to_distance
from nnunet_ssl.losses.dice_ce import binary_dice_ce
from nnunet_ssl.losses.distance import channel_mse
from nnunet_ssl.losses.votes import class_pseudo_loss, region_pseudo_loss, vote_dice
from nnunet_ssl.methods.dbisl import DBiSLConfig
from nnunet_ssl.methods.dual_task import Maps, Transforms, asked_maps, make_maps, vote, watched
from nnunet_ssl.nn.task_decoders import Branch
from nnunet_ssl.targets import mean_weight
from tests.unit.dbisl_parts import TWO_CLASSES, WATCHED
from tests.unit.toy import SHAPES, SPACES, as_target, generator, label_map, values

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
        own = torch.tensor(prompt.values)
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


def test_the_cross_entropy_of_k_r_pulls_as_hard_as_that_of_a_logit():
    r, z = torch.zeros(1, 8, requires_grad=True), torch.zeros(1, 8, requires_grad=True)
    y, weight, config = torch.ones(1, 8), torch.ones(1), DBiSLConfig()

    def pull(leaf, log_odds, ce_weight):
        with_ce, without = (binary_dice_ce(log_odds, y, weight, ce_weight=w) for w in (ce_weight, 0.0))
        return torch.autograd.grad(with_ce - without, leaf)[0]

    assert torch.allclose(pull(r, config.distance_k * r, config.cross_entropy_weight), pull(z, z * 1, 1.0))


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
