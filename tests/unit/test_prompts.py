"""Asking a trained network for one task."""

import pytest
import torch
from torch import nn

from nnunet_ssl.errors import TaskError
from nnunet_ssl.inference.prompts import (
    PLANS_TASK,
    TASK_VARIABLE,
    kept_channels,
    restrict_output,
    restrict_to_wished_task,
    suppress_channels,
    task_channels,
)
from tests.unit.toy import SPACES, generator

TASKS, REGION_TASKS = SPACES["tasks"], SPACES["region_tasks"]
KEEP = torch.tensor([True, False, True, True])  # background, front and back


class Same(nn.Module):
    """A network that returns its input, or a list of two resolutions of it."""

    def __init__(self, deep_supervision=False):
        super().__init__()
        self.deep_supervision = deep_supervision

    def forward(self, x):
        return [x, x[..., ::2]] if self.deep_supervision else x * 1


def logits(channels=4, scale=3.0, offset=0.0):
    return offset + scale * torch.randn(2, channels, 5, 6, generator=generator())


def plans(space):
    labels = {"background": 0} | {p.label: p.value for p in space.table.prompts}
    return {"nnunet_ssl": {"labels": labels, "tasks": space.table.to_json()}}


# Channels


def test_kept_channels():
    assert kept_channels(TASKS.table, [1, 2], 4).tolist() == [True, False, True, True]
    assert kept_channels(TASKS.table, [0], 4).tolist() == [True, True, False, False]
    assert kept_channels(REGION_TASKS.table, [1], 3).tolist() == [False, True, False]


def test_channels_of_each_samples_task():
    assert task_channels(TASKS, torch.tensor([1, 0])).tolist() == [
        [True, False, True, True],
        [True, True, False, False],
    ]
    assert task_channels(REGION_TASKS, torch.tensor([0, 1])).tolist() == [
        [True, False, False],
        [False, True, True],
    ]


# Output


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_kept_channels_are_untouched_and_others_never_predicted(deep_supervision):
    network, x = Same(deep_supervision), logits()
    assert (x.argmax(1) == 1).any()
    restrict_output(network, KEEP)
    outputs, unrestricted = network(x), Same(deep_supervision)(x)
    assert isinstance(outputs, list) == deep_supervision
    if not deep_supervision:
        outputs, unrestricted = [outputs], [unrestricted]
    for output, full in zip(outputs, unrestricted, strict=True):
        assert torch.equal(output[:, KEEP], full[:, KEEP])
        assert not (output.argmax(1) == 1).any()
        assert output.softmax(1)[:, 1].max() < 1e-20


def test_handle_removes_the_restriction():
    network, x = Same(), logits()
    handle = restrict_output(network, KEEP)
    assert not torch.equal(network(x), x)
    handle.remove()
    assert torch.equal(network(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("offset", [0.0, -1000.0, -20000.0, 20000.0])
def test_never_predicted_however_unlikely_the_kept(dtype, offset):
    x = logits(offset=offset).to(dtype)
    suppressed = suppress_channels(x, KEEP)
    assert suppressed.dtype == dtype
    assert torch.isfinite(suppressed).all()
    assert (suppressed[:, 1] < suppressed[:, KEEP].amin(1)).all()


def test_never_predicted_after_windows_are_summed_in_half_precision():
    # nnU-Net sums mirrored, overlapping, gaussian-weighted windows in half precision and divides
    weight = torch.tensor([10.0, 1e-3, 3.0]).half()
    windows = [suppress_channels(logits(offset=o).half(), KEEP) for o in (0.0, -30.0, 20.0)]
    total = sum(w * window for w, window in zip(weight, windows, strict=True)) / weight.sum()
    assert not (total.argmax(1) == 1).any()
    assert (total[:, 1] < total[:, KEEP].amin(1) - 30).all()


@pytest.mark.parametrize("offset", [-1000.0, 0.0, 1000.0])
def test_regions_are_never_predicted(offset):
    suppressed = suppress_channels(logits(3, offset=offset), torch.tensor([False, True, True]))
    assert torch.sigmoid(suppressed[:, 0]).max() < 1e-20


def test_each_sample_its_own_task():
    network, x = Same(), logits()
    restrict_output(network, task_channels(TASKS, torch.tensor([0, 1])))
    output = network(x)
    assert set(output[0].argmax(0).unique().tolist()) == {0, 1}
    assert set(output[1].argmax(0).unique().tolist()) == {0, 2, 3}


def test_three_dimensions():
    x = torch.randn(2, 4, 3, 4, 5, generator=generator())
    assert torch.equal(suppress_channels(x, KEEP)[:, KEEP], x[:, KEEP])


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_survives_compilation(deep_supervision):
    network, x = Same(deep_supervision), logits()
    restrict_output(network, KEEP)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="eager")
    output = compiled(x)[0] if deep_supervision else compiled(x)
    assert torch.equal(output, suppress_channels(x, KEEP))


def test_a_compiled_network_can_be_restricted_and_released():
    network, x = Same(), logits()
    torch.compiler.reset()
    compiled = torch.compile(network, backend="eager")
    assert torch.equal(compiled(x), x)
    handle = restrict_output(compiled, KEEP)  # the trainer's online validation
    assert torch.equal(compiled(x), suppress_channels(x, KEEP))
    handle.remove()
    assert torch.equal(compiled(x), x)


# The wish


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        ("Brain", [0, 2, 3]),
        ("bRAIN", [0, 2, 3]),
        ("front", [0, 2]),
        (" BACK ", [0, 3]),
        ("Atrium", [0, 1]),
    ],
)
def test_wish_by_task_or_label(wish, kept, monkeypatch):
    monkeypatch.setenv(TASK_VARIABLE, wish)
    network = Same()
    assert restrict_to_wished_task(network, plans(TASKS), 4) is network
    assert set(network(logits()).argmax(1).unique().tolist()) == set(kept)


def test_wish_for_a_region(monkeypatch):
    monkeypatch.setenv(TASK_VARIABLE, "brain")
    output = restrict_to_wished_task(Same(), plans(REGION_TASKS), 3)(logits(3))
    assert (output > 0).flatten(2).any(2).any(0).tolist() == [False, True, True]


@pytest.mark.parametrize("wish", [None, ""])
def test_no_wish(wish, monkeypatch):
    monkeypatch.delenv(TASK_VARIABLE, raising=False)
    if wish is not None:
        monkeypatch.setenv(TASK_VARIABLE, wish)
    x = logits()
    assert torch.equal(restrict_to_wished_task(Same(), {}, 4)(x), x)


def test_an_exported_model_holds_a_wish_that_the_environment_overrules(monkeypatch):
    monkeypatch.delenv(TASK_VARIABLE, raising=False)
    exported = plans(TASKS)
    exported = {**exported, "nnunet_ssl": {**exported["nnunet_ssl"], PLANS_TASK: "Atrium"}}
    assert set(restrict_to_wished_task(Same(), exported, 4)(logits()).argmax(1).unique().tolist()) == {0, 1}
    monkeypatch.setenv(TASK_VARIABLE, "Brain")
    answer = restrict_to_wished_task(Same(), exported, 4)(logits()).argmax(1)
    assert set(answer.unique().tolist()) == {0, 2, 3}


def test_unknown_wish_lists_what_there_is(monkeypatch):
    monkeypatch.setenv(TASK_VARIABLE, "liver")
    known = r"Unknown task 'liver'.*Atrium \(labels: atrium\); Brain \(labels: front, back\)"
    with pytest.raises(TaskError, match=known):
        restrict_to_wished_task(Same(), plans(TASKS), 4)
