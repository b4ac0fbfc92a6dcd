"""Watching pseudo-labels: what they cover, how sure and how consistent they are, and when they collapse.

A self-training that goes wrong does so quietly: its losses fall while the pseudo-labels become empty, or all
of one class. Nothing here takes part in training.

Shapes: N samples, K prompts (foreground classes or regions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_ssl.curve_names import AGREEMENT, BY_LABEL, COVERAGE, PREFIX
from nnunet_ssl.targets import LabelSpace

PATIENCE = 5  # epochs in a row that make a collapse
START = 0.1  # share of training in which nothing is a collapse: networks begin with empty predictions
ODDS = 10.0  # by this factor the odds of foreground may differ from the labelled cases'
FULL = 0.99  # coverage that counts as all foreground
LOST = 0.5  # agreement below this share of its best counts as lost


@dataclass(frozen=True)
class Observation:
    """Pseudo-labels of a batch, in numbers.

    Attributes:
        coverage: share of voxels that are foreground.
        by_label: the same of each prompt.
        confidence: mean probability of what is called foreground; NaN where nothing is.
        agreement: Dice of two views of the same images; NaN for one view, or where both are empty.
    """

    coverage: float
    by_label: tuple[float, ...]
    confidence: float
    agreement: float


@dataclass(frozen=True)
class Expected:
    """Foreground of the labelled cases.

    Attributes:
        coverage: share of their voxels that are foreground.
        by_label: the same of each prompt.
        names: of the prompts.
    """

    coverage: float
    by_label: tuple[float, ...]
    names: tuple[str, ...]


def observe(views: Sequence[Tensor], space: LabelSpace) -> Observation:
    """Measure what ``Method.pseudo_labels`` returned.

    Args:
        views: logits (N, channels, *spatial) of the pseudo-labels and, perhaps, of a second view, which may
            also be log-odds (N, 1, *spatial) of any foreground.
        space: the tasks.
    """
    logits = views[0].float()
    maps = label_maps(space.hard(logits), space)
    foreground = maps.any(1)
    if space.table.has_regions:
        sure = logits.sigmoid()[maps]
    else:
        sure = logits.softmax(1).amax(1)[foreground]
    return Observation(
        coverage=float(foreground.float().mean()),
        by_label=tuple(maps.float().transpose(0, 1).flatten(1).mean(1).tolist()),
        confidence=float(sure.mean()) if sure.numel() else math.nan,
        agreement=_agreement(maps, views[1], space) if len(views) > 1 else math.nan,
    )


def label_maps(target: Tensor, space: LabelSpace) -> Tensor:
    """(N, K, *spatial) bool of a target in nnU-Net's form."""
    prompts = range(space.num_prompts)
    sample = torch.arange(len(target), device=target.device)
    # One prompt after the other: all at once would be a copy of the target for each
    maps = [space.binary(target, sample, torch.full_like(sample, k)).bool() for k in prompts]
    return torch.stack(maps, 1)


def mean_observation(seen: Sequence[Observation]) -> Observation:
    """Mean of several batches; what a batch does not define is left out."""
    return Observation(
        _mean([o.coverage for o in seen]),
        tuple(_mean(column) for column in zip(*(o.by_label for o in seen), strict=True)),
        _mean([o.confidence for o in seen]),
        _mean([o.agreement for o in seen]),
    )


def count_labels(labels: Tensor, space: LabelSpace) -> Tensor:
    """(K + 2,) voxels of each prompt, of any, and of all that is annotated, in a label map of any shape."""
    maps = [torch.isin(labels, torch.tensor(p.values, dtype=labels.dtype)) for p in space.table.prompts]
    annotated = torch.ones_like(maps[0]) if space.ignore_label is None else labels != space.ignore_label
    return torch.stack([m.sum() for m in (*maps, torch.stack(maps).any(0), annotated)])


def expected(counts: Sequence[tuple[int, Tensor]], space: LabelSpace) -> Expected:
    """Foreground of the labelled cases, tasks weighing the same, as in training.

    Args:
        counts: task of each case and its ``count_labels``.
        space: the tasks.
    """
    shares = []
    for task in sorted({task for task, _ in counts}):
        total = torch.stack([count for own, count in counts if own == task]).sum(0).double()
        shares.append(total[:-1] / total[-1].clamp(min=1))
    mean = torch.stack(shares).mean(0).tolist()
    return Expected(mean[-1], tuple(mean[:-1]), tuple(p.label for p in space.table.prompts))


def overlaps(logits: Tensor, target: Tensor, task: int, space: LabelSpace) -> Tensor:
    """(2, K) intersection and sum of the sizes of prediction and truth, of the task's own prompts.

    Args:
        logits: (N, channels, *spatial).
        target: in nnU-Net's form; ignored voxels do not count.
        task: of all samples.
        space: the tasks.
    """
    valid = space.valid(target)
    one, other = label_maps(space.hard(logits), space), label_maps(target, space)
    if valid is not None:
        one, other = one & valid[:, None], other & valid[:, None]
    own = torch.zeros(space.num_prompts, device=target.device)
    own[space.table.prompts_of(task)] = 1
    counts = torch.stack([(one & other).transpose(0, 1).flatten(1).sum(1), _size(one) + _size(other)])
    return counts.cpu().double() * own.cpu()  # MPS has no double


def mean_dice(counts: Tensor) -> float:
    """Mean Dice of the prompts that occur, from sums of ``overlaps`` (2, K); NaN if none does."""
    there = counts[1] > 0
    return float((2 * counts[0][there] / counts[1][there]).mean()) if there.any() else math.nan


# Collapse


def collapses(history: Mapping[str, Sequence[float]], wanted: Expected, num_epochs: int) -> list[str]:
    """Sentences on what is wrong since the last epoch: each collapse is told once, when it has begun.

    What is wrong must be so for ``PATIENCE`` epochs in a row, after the first tenth of training: no
    foreground at all, foreground everywhere, odds of foreground ``ODDS`` times those of the labelled cases
    or a ``ODDS``-th of them, a label that is never predicted, or an agreement below half of its best.
    A network that has collapsed is often sure of itself, so confidence tells nothing of this kind.

    Args:
        history: curves, one value per epoch, NaN where nothing was seen.
        wanted: foreground of the labelled cases.
        num_epochs: length of the training.
    """
    done = len(history[PREFIX + COVERAGE])
    first = math.ceil(START * num_epochs)
    before = _complaints(history, wanted, done - 1, first)
    return [text for kind, text in _complaints(history, wanted, done, first).items() if kind not in before]


def _complaints(
    history: Mapping[str, Sequence[float]], wanted: Expected, done: int, first: int
) -> dict[str, str]:
    """Kind of collapse to a sentence, as known after ``done`` epochs."""
    coverage = list(history[PREFIX + COVERAGE][max(done - PATIENCE, 0) : max(done, 0)])
    if done - PATIENCE < first or len(coverage) < PATIENCE or any(map(math.isnan, coverage)):
        return {}
    lasting = f"in each of the last {PATIENCE} epochs"
    if max(coverage) == 0:
        return {"empty": f"they were empty {lasting}: nothing was called foreground."}
    found = {}
    mean, usual = sum(coverage) / PATIENCE, f"{wanted.coverage:.2%} of the labelled cases"
    if min(coverage) > FULL and wanted.coverage < FULL:
        found["full"] = f"nearly everything was called foreground {lasting} ({mean:.1%}; {usual} is)."
    elif all(_far(c, wanted.coverage) for c in coverage):
        found["coverage"] = f"{mean:.2%} was called foreground {lasting}, but {usual} is."
    return found | _missing_labels(history, wanted, done, lasting) | _lost_agreement(history, done, lasting)


def _missing_labels(
    history: Mapping[str, Sequence[float]], wanted: Expected, done: int, lasting: str
) -> dict[str, str]:
    """Labels that are never predicted, where others are."""
    rows: Sequence = history.get(PREFIX + BY_LABEL, [])[max(done - PATIENCE, 0) : done]
    if len(rows) < PATIENCE or any(isinstance(row, float) for row in rows):
        return {}
    missing = [
        name
        for k, (name, share) in enumerate(zip(wanted.names, wanted.by_label, strict=True))
        if share > 0 and all(row[k] == 0 for row in rows)
    ]
    if not missing:
        return {}
    return {f"labels {missing}": f"never predicted {lasting}: {', '.join(missing)}."}


def _lost_agreement(history: Mapping[str, Sequence[float]], done: int, lasting: str) -> dict[str, str]:
    values = [v for v in history.get(PREFIX + AGREEMENT, [])[:done] if not math.isnan(v)]
    if len(values) <= PATIENCE:
        return {}
    best, now = max(values[:-PATIENCE]), values[-PATIENCE:]
    if max(now) >= LOST * best:
        return {}
    mean = sum(now) / PATIENCE
    return {"agreement": f"the agreement of the two views was {mean:.2f} {lasting}, after {best:.2f}."}


def _far(share: float, usual: float) -> bool:
    """Whether the odds differ by more than ``ODDS``; without foreground in the labelled cases never."""
    if not 0 < usual < 1:
        return False
    odds, wanted = share / max(1 - share, 1e-12), usual / (1 - usual)
    return odds > ODDS * wanted or ODDS * odds < wanted


def _agreement(maps: Tensor, other: Tensor, space: LabelSpace) -> float:
    """Dice over all samples and labels; of any foreground where the second view tells no labels apart."""
    if other.shape[1] == 1 and not (space.table.has_regions and space.num_prompts == 1):
        one, two = maps.any(1), other[:, 0] > 0
    else:
        one, two = maps, label_maps(space.hard(other), space)
    size = int(one.sum() + two.sum())
    return float(2 * (one & two).sum() / size) if size else math.nan


def _size(maps: Tensor) -> Tensor:
    """(K,) voxels of (N, K, *spatial)."""
    return maps.transpose(0, 1).flatten(1).sum(1)


def _mean(values: Sequence[float]) -> float:
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan
