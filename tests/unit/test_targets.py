"""Reading targets by prompt, and nnU-Net's loss on partial labels."""

import pytest
import torch
from torch import nn

from nnunet_ssl.targets import partial_label_loss
from tests.unit.toy import SPACES, as_target, make_batch, nnunet_loss, stock_network

# Label values: atrium 1; front 2, back 3; ignore 4 (with classes), 3 (with regions)
CLASSES = torch.tensor([[[[0, 1], [4, 0]]], [[[2, 3], [0, 4]]]], dtype=torch.int16)
REGIONS = torch.tensor([[[[0, 1], [3, 0]]], [[[2, 3], [0, 1]]]], dtype=torch.int16)


def as_lists(mask):
    return mask.int().tolist()


# LabelSpace


def test_binary_of_classes():
    sample, prompt = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 2])
    binary = SPACES["tasks_ignore"].binary(CLASSES, sample, prompt)
    assert binary.dtype == torch.bool
    assert as_lists(binary) == [
        [[0, 1], [0, 0]],
        [[0, 0], [0, 0]],
        [[1, 0], [0, 0]],
        [[0, 1], [0, 0]],
    ]


def test_binary_of_regions():
    target = as_target(SPACES["regions_ignore"], REGIONS)
    assert target.shape == (2, 3, 2, 2)
    binary = SPACES["regions_ignore"].binary(target, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
    assert as_lists(binary) == [[[0, 1], [0, 0]], [[1, 0], [0, 1]], [[1, 0], [0, 0]]]


def test_foreground_is_the_union_without_ignored_voxels():
    assert as_lists(SPACES["tasks_ignore"].foreground(CLASSES)) == [[[0, 1], [0, 0]], [[1, 1], [0, 0]]]
    target = as_target(SPACES["regions_ignore"], REGIONS)
    assert as_lists(SPACES["regions_ignore"].foreground(target)) == [[[0, 1], [0, 0]], [[1, 0], [0, 1]]]


def test_valid_voxels():
    assert as_lists(SPACES["tasks_ignore"].valid(CLASSES)) == [[[1, 1], [0, 1]], [[1, 1], [1, 0]]]
    target = as_target(SPACES["regions_ignore"], REGIONS)
    assert as_lists(SPACES["regions_ignore"].valid(target)) == [[[1, 1], [0, 1]], [[1, 0], [1, 1]]]
    assert SPACES["tasks"].valid(CLASSES) is None
    assert SPACES["regions"].valid(target) is None


def test_samples_under_their_own_prompts():
    pairs = SPACES["tasks"].own_pairs(torch.tensor([0, 1]))
    assert pairs.sample.tolist() == [0, 1, 1]
    assert pairs.prompt.tolist() == [0, 1, 2]
    assert pairs.weight.tolist() == [0.5, 0.25, 0.25]
    assert not SPACES["tasks"].own_prompts(torch.tensor([-1])).any()


def test_one_prompt_each_copies_no_features():
    pairs = SPACES["one_class"].own_pairs(torch.zeros(3, dtype=torch.long))
    assert pairs.gathered is None and pairs.sample.tolist() == [0, 1, 2]
    # of a dataset with more, no batch is an exception: a network would be compiled for each kind
    assert SPACES["tasks"].own_pairs(torch.tensor([0, 0])).gathered.tolist() == [0, 1]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", SPACES)
def test_union_of_binaries_is_the_foreground(name, dim):
    space = SPACES[name]
    target = make_batch(space, dim).targets[0]
    sample = torch.arange(4).repeat_interleave(space.num_prompts)
    prompt = torch.arange(space.num_prompts).repeat(4)
    binary = space.binary(target, sample, prompt).view(4, space.num_prompts, *target.shape[2:])
    assert torch.equal(binary.any(1), space.foreground(target))
    assert space.foreground(target).any()
    if (valid := space.valid(target)) is not None:
        assert not (space.foreground(target) & ~valid).any()
        assert not valid.all()


def test_channels_of_a_task():
    assert [SPACES["tasks"].channels_of(t) for t in (0, 1)] == [[0, 1], [0, 2, 3]]
    assert [SPACES["region_tasks"].channels_of(t) for t in (0, 1)] == [[0], [1, 2]]


def test_target_in_channels_of_a_task():
    space = SPACES["tasks_ignore"]
    assert space.target_of(CLASSES[:1], 0).tolist() == [[[[0, 1], [4, 0]]]]
    own = space.target_of(CLASSES[1:], 1)
    assert own.tolist() == [[[[1, 2], [0, 4]]]]
    assert own.dtype == CLASSES.dtype


def test_target_without_the_largest_labels():
    empty = torch.zeros(1, 1, 2, 2, dtype=torch.int16)
    assert torch.equal(SPACES["tasks_ignore"].target_of(empty, 1), empty)


def test_region_target_in_channels_of_a_task():
    target = as_target(SPACES["region_tasks"], CLASSES)
    assert torch.equal(SPACES["region_tasks"].target_of(target, 1), target[:, [1, 2]])
    # the ignore channel stays, and stays last
    target = as_target(SPACES["regions_ignore"], REGIONS)
    assert torch.equal(SPACES["regions_ignore"].target_of(target, 0), target)


# The loss on partial labels


def outputs_of(space, dim=2, deep_supervision=True):
    batch = make_batch(space, dim, deep_supervision=deep_supervision)
    channels = space.num_prompts + (0 if space.table.has_regions else 1)
    outputs = stock_network(channels, dim, deep_supervision)(batch.labeled)
    targets = batch.targets if deep_supervision else batch.targets[0]
    return outputs, targets, batch.tasks


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["one_class", "classes", "ignore", "regions", "regions_ignore"])
def test_one_task_is_the_loss_itself(name, dim, deep_supervision):
    space = SPACES[name]
    outputs, targets, tasks = outputs_of(space, dim, deep_supervision)
    loss = nnunet_loss(space, deep_supervision)
    assert torch.equal(partial_label_loss(loss, outputs, targets, tasks, space), loss(outputs, targets))


@pytest.mark.parametrize("name", ["tasks", "tasks_ignore", "region_tasks"])
def test_two_tasks_are_the_mean_over_samples_each_on_its_own_channels(name):
    space = SPACES[name]
    outputs, targets, _ = outputs_of(space, deep_supervision=False)
    loss = nnunet_loss(space, deep_supervision=False)
    channels = [[0], [1, 2]] if space.table.has_regions else [[0, 1], [0, 2, 3]]
    tasks, expected = [0, 1, 0, 1], torch.zeros(())
    for rows, task in (([0, 2], 0), ([1, 3], 1)):
        own = targets[rows].clone()
        if space.table.has_regions:
            own = own[:, channels[task]]
        elif task == 1:  # front 2, back 3 are its first and second class
            own[targets[rows] == 2], own[targets[rows] == 3] = 1, 2
        expected = expected + 0.5 * loss(outputs[rows][:, channels[task]], own)
    actual = partial_label_loss(loss, outputs, targets, torch.tensor(tasks), space)
    assert torch.allclose(actual, expected)


def test_samples_weigh_the_same():
    space = SPACES["tasks"]
    outputs, targets, _ = outputs_of(space)
    loss, tasks = nnunet_loss(space), torch.tensor([0, 1, 1, 1])
    rows = [
        partial_label_loss(
            loss, [o[i : i + 1] for o in outputs], [t[i : i + 1] for t in targets], tasks[i : i + 1], space
        )
        for i in range(4)
    ]
    together = partial_label_loss(loss, outputs, targets, tasks, space)
    assert torch.allclose(together, torch.stack(rows).mean())


@pytest.mark.parametrize("name", ["tasks", "tasks_ignore", "region_tasks"])
def test_gradient_reaches_a_samples_own_channels_only(name):
    space = SPACES[name]
    outputs, targets, tasks = outputs_of(space, deep_supervision=False)
    outputs = outputs.detach().requires_grad_()
    partial_label_loss(nnunet_loss(space, False), outputs, targets, tasks, space).backward()
    touched = outputs.grad.flatten(2).any(2)
    for row, task in enumerate(tasks.tolist()):
        assert touched[row].nonzero().flatten().tolist() == space.channels_of(task)


def test_deep_supervision_weights_are_the_losses_own():
    calls = []

    class Loss(nn.Module):
        def forward(self, outputs, targets):
            calls.append(([tuple(o.shape) for o in outputs], [tuple(t.shape) for t in targets]))
            return outputs[0].mean()

    outputs, targets, tasks = outputs_of(SPACES["tasks"])
    partial_label_loss(Loss(), outputs, targets, tasks, SPACES["tasks"])
    sizes = [(16, 16), (8, 8), (4, 4)]
    assert calls == [
        ([(2, 2, *s) for s in sizes], [(2, 1, *s) for s in sizes]),
        ([(2, 3, *s) for s in sizes], [(2, 1, *s) for s in sizes]),
    ]


def test_hard_prediction_has_nnunets_form():
    logits = torch.tensor([[[0.1, 2.0], [0.5, 1.0], [0.2, 3.0]]], requires_grad=True)[..., None]
    classes = SPACES["tasks"].hard(torch.cat([logits, logits[:, :1] - 9], 1))
    assert (
        classes.shape == (1, 1, 2, 1) and classes.flatten().tolist() == [1, 2] and not classes.requires_grad
    )
    regions = SPACES["regions_ignore"].hard(logits[:, :2] - 0.3)
    assert regions[..., 0].tolist() == [[[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]]  # no voxel is ignored


def test_the_label_map_of_regions_shows_the_innermost():
    target = as_target(SPACES["regions_ignore"], REGIONS)  # whole holds 1 and 2, core holds 2
    assert as_lists(SPACES["regions_ignore"].label_map(target)) == [[[0, 1], [0, 0]], [[2, 0], [0, 1]]]
    assert torch.equal(SPACES["tasks_ignore"].label_map(CLASSES), CLASSES[:, 0])


# Masked targets


def test_masked_label_map():
    keep = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    keep[..., :2] = True
    space = SPACES["one_class"].with_ignore_label()
    assert space.ignore_label == 2
    target = torch.ones(1, 1, 4, 4, dtype=torch.int16)
    assert space.masked(target, keep)[0, 0].tolist() == [[1, 1, 2, 2]] * 4
    half = space.masked(target[..., ::2, ::2], keep)
    assert half[0, 0].tolist() == [[1, 2]] * 2 and half.dtype == torch.int16


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.float32])
def test_masked_regions_get_a_channel_or_extend_it(dtype):
    keep = torch.zeros(1, 1, 2, 4, dtype=torch.bool)
    keep[..., :2] = True
    space = SPACES["regions"].with_ignore_label()
    target = torch.ones(1, 2, 2, 4).to(dtype)
    without = space.masked(target, keep)
    assert without.dtype == dtype and without.shape == (1, 3, 2, 4)
    assert without[0, 2].int().tolist() == [[0, 0, 1, 1]] * 2
    ignored = torch.zeros(1, 1, 2, 4).to(dtype)
    ignored[..., 0, 0] = 1
    extended = space.masked(torch.cat([target, ignored], 1), keep)
    assert extended[0, 2].int().tolist() == [[1, 0, 1, 1], [0, 0, 1, 1]]
    assert torch.equal(extended[:, :2], target)


@pytest.mark.parametrize(
    ("name", "value"), [("classes", 4), ("ignore", 3), ("tasks", 4), ("regions", 3), ("region_tasks", 4)]
)
def test_the_ignore_label_is_the_datasets_or_the_next_value(name, value):
    assert SPACES[name].with_ignore_label().ignore_label == value
