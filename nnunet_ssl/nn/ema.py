"""A teacher that is the moving average of its student (Tarvainen and Valpola, NeurIPS 2017).

Both are the planned network. One of them bears the planned names, so it infers, validates and is what stock
nnU-Net finds in the checkpoint; the other lies under ``training_only``. How many updates the average has had
is a buffer beside it: a checkpoint holds all that continuing exactly takes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY, MultiDecoderUNet

TEACHER, STUDENT = "teacher", "student"
_COUNT = "average"


class _Count(nn.Module):
    """Number of updates of the teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))


def teacher_and_student(
    planned: nn.Module, other: nn.Module, inference: Literal["teacher", "student"]
) -> MultiDecoderUNet:
    """Two networks in one module; no gradient reaches the teacher.

    Args:
        planned: takes the planned names.
        other: a network of the same shape, reached with ``extra(STUDENT)`` or ``extra(TEACHER)``. It begins
            as a copy of the first when ``start_other`` is called: nnU-Net's -pretrained_weights reach the
            planned names only, and after the network was built.
        inference: what the first one is.
    """
    other_is = STUDENT if inference == TEACHER else TEACHER
    (planned if inference == TEACHER else other).requires_grad_(False)
    return MultiDecoderUNet(planned, **{other_is: other, _COUNT: _Count()})


def num_updates(network: nn.Module) -> int:
    """How often the teacher was updated, over all runs of a training that was continued."""
    return int(_pair(network).extra(_COUNT).updates)


@torch.no_grad()
def start_other(network: nn.Module) -> None:
    """Copy the network of the planned names to the other one, as long as the teacher had no update."""
    if num_updates(network) == 0:
        pair = _pair(network)
        planned, other = _planned_tensors(pair), _tensors(_other(pair)[1])
        for name, tensor in other.items():
            tensor.copy_(planned[name])


@torch.no_grad()
def update_teacher(network: nn.Module, decay: float) -> None:
    """``teacher = decay * teacher + (1 - decay) * student``, statistics of norms included.

    Args:
        network: in whatever wrappers the trainer holds it.
        decay: in [0, 1]; 0 makes the teacher a copy of the student.
    """
    pair = _pair(network)
    name, other = _other(pair)
    planned, kept_apart = _planned_tensors(pair), _tensors(other)
    teacher, student = (kept_apart, planned) if name == TEACHER else (planned, kept_apart)
    floating = [n for n, tensor in teacher.items() if tensor.is_floating_point()]
    average: Any = get_ema_multi_avg_fn(decay)
    average([teacher[n] for n in floating], [student[n] for n in floating], None)
    for n in teacher.keys() - set(floating):  # counters
        teacher[n].copy_(student[n])
    pair.extra(_COUNT).updates += 1


def _pair(network: nn.Module) -> MultiDecoderUNet:
    """The module within the wrappers of distributed training and compilation."""
    return next(m for m in network.modules() if isinstance(m, MultiDecoderUNet))


def _other(pair: MultiDecoderUNet) -> tuple[str, nn.Module]:
    parts: Any = pair.training_only["seg_layers"]
    name = TEACHER if TEACHER in parts else STUDENT
    return name, parts[name]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _planned_tensors(pair: MultiDecoderUNet) -> dict[str, Tensor]:
    return {n: t for n, t in _tensors(pair).items() if not n.startswith(f"{TRAINING_ONLY}.")}
