"""Reading nnU-Net's target tensors by prompt.

nnU-Net hands out label maps (B, 1, *spatial) for classes, or one channel per region (B, R, *spatial) with the
ignore label as one more channel at the end. In a dataset of several tasks label values are unique, so a label
map that mixes two tasks still tells whose foreground a voxel is.

Shapes: B samples, K prompts, P pairs of a sample and a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_ssl.losses.dice_ce import binary_dice_ce
from nnunet_ssl.masks import resize_masks
from nnunet_ssl.tasks import TaskTable

Outputs = Tensor | Sequence[Tensor]
SegmentationLoss = Callable[[Outputs, Outputs], Tensor]


def full_resolution(outputs: Outputs) -> Tensor:
    """What a network gives at the full resolution: its output, or the first with deep supervision."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


class Pairs(NamedTuple):
    """Which prompts are asked of which samples.

    Attributes:
        gathered: (P,) index of the sample; ``None`` where pair p is that of sample p, so features need no
            copies.
        prompt: (P,) index of the prompt.
        weight: (P,) weight.
    """

    gathered: Tensor | None
    prompt: Tensor
    weight: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Pairs:
        """Those whose weight (B, K) is not 0."""
        sample, prompt = weight.nonzero(as_tuple=True)
        return cls(sample, prompt, weight[sample, prompt])

    @property
    def sample(self) -> Tensor:
        """(P,) index of the sample."""
        if self.gathered is not None:
            return self.gathered
        return torch.arange(len(self.prompt), device=self.prompt.device)


def mean_weight(asked: Tensor) -> Tensor:
    """(B, K) of what is ``asked`` (B, K) in a mean: samples weigh the same, and so do a sample's prompts."""
    return asked / asked.sum(1, keepdim=True) / len(asked)


@dataclass(frozen=True)
class LabelSpace:
    """The tasks of a dataset as methods need them.

    Attributes:
        table: tasks and prompts.
        ignore_label: value of nnU-Net's ignore label, if the dataset has one.
    """

    table: TaskTable
    ignore_label: int | None = None

    @property
    def num_prompts(self) -> int:
        """Number K of prompts, the synthetic one not counted."""
        return len(self.table.prompts)

    def own_prompts(self, tasks: Tensor) -> Tensor:
        """Prompts of the task (B,) of each sample: (B, K) bool; none where the task is -1, unknown."""
        owner = torch.tensor([p.task for p in self.table.prompts], device=tasks.device)
        return tasks[:, None] == owner

    def own_pairs(self, tasks: Tensor) -> Pairs:
        """Each sample, whose task must be known, under that task's prompts; weighed as in a mean."""
        pairs = Pairs.of(mean_weight(self.own_prompts(tasks)))
        # A property of the dataset, not of the batch: else a compiled network has several forms
        single = all(len(self.table.prompts_of(task)) == 1 for task in range(len(self.table)))
        return pairs._replace(gathered=None) if single else pairs

    def binary(self, target: Tensor, sample: Tensor, prompt: Tensor) -> Tensor:
        """Foreground of pairs: (P, *spatial) bool for sample indices (P,) and prompt indices (P,)."""
        if self.table.has_regions:
            return target[sample, prompt].bool()
        values = torch.tensor([p.values[0] for p in self.table.prompts], device=target.device)
        return target[sample, 0] == values[prompt].view(-1, *[1] * (target.ndim - 2))

    def foreground(self, target: Tensor) -> Tensor:
        """Union of all foreground, (B, *spatial) bool."""
        if self.table.has_regions:
            return target[:, : self.num_prompts].bool().any(1)
        foreground = target[:, 0] > 0
        return foreground if self.ignore_label is None else foreground & (target[:, 0] != self.ignore_label)

    def valid(self, target: Tensor) -> Tensor | None:
        """Voxels without the ignore label, (B, *spatial) bool; ``None`` if the dataset has no such label."""
        if self.ignore_label is None:
            return None
        return ~target[:, -1].bool() if self.table.has_regions else target[:, 0] != self.ignore_label

    def hard(self, logits: Tensor) -> Tensor:
        """Prediction as a target in nnU-Net's form, without gradient and without ignored voxels.

        Args:
            logits: (B, channels, *spatial) of the full resolution.

        Returns:
            Label map (B, 1, *spatial), or with regions one channel per region and, if there is an ignore
            label, an empty one for it.
        """
        if not self.table.has_regions:
            return logits.detach().argmax(1, keepdim=True)  # nnU-Net's labels are consecutive
        regions = (logits.detach() > 0).to(logits.dtype)
        if self.ignore_label is None:
            return regions
        return torch.cat([regions, torch.zeros_like(regions[:, :1])], dim=1)

    def label_map(self, target: Tensor) -> Tensor:
        """(B, *spatial) of a target; of regions the last one that holds a voxel, counted from 1."""
        if not self.table.has_regions:
            return target[:, 0]
        number = torch.arange(1, self.num_prompts + 1, device=target.device)
        return (target[:, : self.num_prompts].bool() * number.view(-1, *[1] * (target.ndim - 2))).amax(1)

    def with_ignore_label(self) -> LabelSpace:
        """The same tasks with an ignore label, the next free value if there is none.

        By it nnU-Net's loss leaves out voxels, see ``masked``.
        """
        if self.ignore_label is not None:
            return self
        largest = max(max(prompt.values) for prompt in self.table.prompts)
        return replace(self, ignore_label=largest + 1)

    def masked(self, target: Tensor, keep: Tensor) -> Tensor:
        """Target in nnU-Net's form with the ignore label, which there must be, wherever ``keep`` is not set.

        Args:
            target: (N, 1, *spatial), or (N, regions, *spatial) with or without a channel of ignored voxels.
            keep: (N, 1, *spatial) bool, of the full resolution.
        """
        keep = resize_masks(keep, target.shape[2:])
        if not self.table.has_regions:
            assert self.ignore_label is not None
            return target.masked_fill(~keep, self.ignore_label)
        regions, ignored = target[:, : self.num_prompts], target[:, self.num_prompts :].bool()
        return torch.cat([regions, (~keep | ignored.any(1, keepdim=True)).to(target.dtype)], dim=1)

    def channels_of(self, task: int) -> list[int]:
        """Output channels that a task annotates, background (channel 0 of classes) included."""
        prompts = self.table.prompts_of(task)
        return prompts if self.table.has_regions else [0, *(k + 1 for k in prompts)]

    def target_of(self, target: Tensor, task: int) -> Tensor:
        """Target of samples of one task in terms of that task's own channels."""
        prompts = self.table.prompts_of(task)
        if self.table.has_regions:
            ignore = [] if self.ignore_label is None else [target.shape[1] - 1]
            return target[:, [*prompts, *ignore]]
        table = torch.zeros(1 + int(target.max()), dtype=target.dtype, device=target.device)
        for channel, k in enumerate(prompts, start=1):
            value = self.table.prompts[k].values[0]
            if value < len(table):
                table[value] = channel
        if self.ignore_label is not None and self.ignore_label < len(table):
            table[self.ignore_label] = self.ignore_label
        return table[target.long()]


def partial_label_loss(
    loss: SegmentationLoss, outputs: Outputs, targets: Outputs, tasks: Tensor, space: LabelSpace
) -> Tensor:
    """nnU-Net's loss where each sample is annotated for its own task only.

    The samples of a task are judged on the task's own channels (and background): labels of other tasks are
    unknown there, so their channels neither gain nor lose. With one task this is ``loss(outputs, targets)``.

    Args:
        loss: nnU-Net's loss, with or without deep supervision.
        outputs: logits, one tensor or a list of resolutions.
        targets: targets in the same form.
        tasks: (B,) task index of each sample.
        space: the tasks.

    Returns:
        Mean over samples.
    """
    if len(space.table) == 1:
        return loss(outputs, targets)
    total = torch.zeros((), device=tasks.device)
    for task in tasks.unique().tolist():
        rows, channels = tasks == task, space.channels_of(task)
        own_outputs = _each(outputs, lambda o: o[rows][:, channels])  # noqa: B023  (called at once)
        own_targets = _each(targets, lambda t: space.target_of(t[rows], task))  # noqa: B023
        total = total + rows.float().mean() * loss(own_outputs, own_targets)
    return total


def prompted_loss(
    log_odds: Tensor,
    target: Tensor,
    pairs: Pairs,
    space: LabelSpace,
    batch_dice: bool,
    ce_weight: float = 1.0,
) -> Tensor:
    """``binary_dice_ce`` of log-odds (P, *spatial) on the samples' target, which is in nnU-Net's form.

    Ignored voxels do not count; with ``batch_dice`` the pairs of a prompt share one Dice.
    """
    valid = space.valid(target)
    return binary_dice_ce(
        log_odds,
        space.binary(target, pairs.sample, pairs.prompt),
        pairs.weight,
        None if valid is None else valid[pairs.sample],
        pairs.prompt if batch_dice else None,
        ce_weight,
    )


def deeply_supervised(
    loss: Callable[[Tensor, Tensor], Tensor],
    outputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    scale_weights: Sequence[float],
) -> Tensor:
    """Weighted sum of ``loss(output, target)`` over resolutions, those of weight 0 left out, as nnU-Net's."""
    scales = zip(scale_weights, outputs, targets, strict=False)
    zero = torch.zeros((), device=outputs[0].device)
    return sum((weight * loss(o, t) for weight, o, t in scales if weight != 0), zero)


def _each(tensors: Outputs, function: Callable[[Tensor], Tensor]) -> Outputs:
    return function(tensors) if isinstance(tensors, Tensor) else [function(t) for t in tensors]
