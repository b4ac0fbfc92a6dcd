"""Toy datasets, networks and batches that the unit tests share. All randomness is seeded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from nnunet_ssl.methods.base import Batch, Method, Panel, Terms, total_loss
from nnunet_ssl.nn.dynamic_head import HEAD_LAYERS, HEAD_WIDTH, FilterController, prompt_vectors
from nnunet_ssl.nn.prompted_unet import Prompted, PromptedUNet
from nnunet_ssl.targets import LabelSpace
from nnunet_ssl.tasks import Task, TaskTable

torch.set_num_threads(1)  # toy tensors: threads cost more than they give, much more on a busy machine

SHAPES = {2: (16, 16), 3: (8, 16, 16)}
SCALES = (1.0, 0.5, 0.25)
SCALE_WEIGHTS = (2 / 3, 1 / 3, 0.0)  # nnU-Net's for three resolutions
BOTTLENECK = 8  # channels


def space(labels: dict, *tasks: Task) -> LabelSpace:
    return LabelSpace(TaskTable({"background": 0, **labels}, tasks or None), labels.get("ignore"))


A = Task("Atrium", ("atrium",), "A_")
B = Task("Brain", ("front", "back"), "B_")
C = Task("Colon", ("colon",), "C_")
SPACES = {
    "one_class": space({"organ": 1}),
    "one_class_ignore": space({"organ": 1, "ignore": 2}),
    "classes": space({"organ": 1, "tumor": 2, "cyst": 3}),
    "ignore": space({"organ": 1, "tumor": 2, "ignore": 3}),
    "regions": space({"whole": [1, 2], "core": 2}),
    "regions_ignore": space({"whole": [1, 2], "core": 2, "ignore": 3}),
    "tasks": space({"atrium": 1, "front": 2, "back": 3}, A, B),
    "tasks_ignore": space({"atrium": 1, "front": 2, "back": 3, "ignore": 4}, A, B),
    "three_tasks": space({"atrium": 1, "front": 2, "back": 3, "colon": 4}, A, B, C),
    "region_tasks": space({"atrium": 1, "front": [2, 3], "back": 3}, A, B),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Targets


def label_map(space: LabelSpace, tasks: list[int], shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Coarse random blobs of each sample's own labels, (B, 1, *shape); the last columns are ignored."""
    draw = generator(seed)
    maps = []
    for task in tasks:
        own = {v for k in space.table.prompts_of(task) for v in space.table.prompts[k].values}
        values = torch.tensor([0, *sorted(own)])
        coarse = torch.randint(len(values), [max(s // 4, 1) for s in shape], generator=draw)
        maps.append(F.interpolate(values[coarse][None, None].float(), shape, mode="nearest-exact")[0])
    labels = torch.stack(maps).short()
    if space.ignore_label is not None:
        labels[..., -3:] = space.ignore_label
    return labels


def as_target(space: LabelSpace, labels: Tensor) -> Tensor:
    """What nnU-Net's transforms make of a label map: the map itself, or one channel per region."""
    if not space.table.has_regions:
        return labels
    values = [p.values for p in space.table.prompts]
    values += [] if space.ignore_label is None else [(space.ignore_label,)]
    return torch.cat([torch.isin(labels, torch.tensor(v, dtype=labels.dtype)) for v in values], dim=1)


def downsample(target: Tensor, scale: float) -> Tensor:
    size = [round(s * scale) for s in target.shape[2:]]
    return F.interpolate(target.float(), size, mode="nearest-exact").to(target.dtype)


def as_targets(space: LabelSpace, labels: Tensor, deep_supervision: bool = True) -> list[Tensor]:
    target = as_target(space, labels)
    return [downsample(target, s) for s in (SCALES if deep_supervision else SCALES[:1])]


def make_batch(
    space: LabelSpace,
    dim: int = 2,
    tasks: list[int] | None = None,
    deep_supervision: bool = True,
    unlabeled: int = 2,
    seed: int = 0,
) -> Batch:
    """A batch as the adapter makes it; by default four samples, the tasks in turn."""
    tasks = [i % len(space.table) for i in range(4)] if tasks is None else tasks
    labels = label_map(space, tasks, SHAPES[dim], seed)
    draw = generator(seed + 1)
    return Batch(
        labeled=torch.randn(len(tasks), 1, *SHAPES[dim], generator=draw),
        targets=as_targets(space, labels, deep_supervision),
        tasks=torch.tensor(tasks),
        unlabeled=torch.randn(unlabeled, 1, *SHAPES[dim], generator=draw),
        unlabeled_tasks=torch.tensor([i % len(space.table) for i in range(unlabeled)]),
    )


# Networks


def stock_network(
    num_classes: int,
    dim: int = 2,
    deep_supervision: bool = True,
    residual: bool = False,
    seed: int = 0,
) -> nn.Module:
    """nnU-Net's U-Net with four stages; the bottleneck of a toy patch is 2 voxels wide."""
    torch.manual_seed(seed)
    last = 2 if dim == 2 else (1, 2, 2)
    blocks = {"n_blocks_per_stage" if residual else "n_conv_per_stage": 1}
    return (ResidualEncoderUNet if residual else PlainConvUNet)(
        input_channels=1,
        n_stages=4,
        features_per_stage=[4, 4, 6, BOTTLENECK],
        conv_op=nn.Conv2d if dim == 2 else nn.Conv3d,
        kernel_sizes=3,
        strides=[1, 2, 2, last],
        num_classes=num_classes,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if dim == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=deep_supervision,
        **blocks,
    )


def prompted_network(
    space: LabelSpace,
    dim: int = 2,
    deep_supervision: bool = True,
    residual: bool = False,
    prompt: str = "one_hot",
    seed: int = 0,
) -> PromptedUNet:
    planned = stock_network(HEAD_WIDTH, dim, deep_supervision, residual, seed)
    prompts = prompt_vectors(prompt, space.num_prompts + 1, None)
    controller = FilterController(BOTTLENECK, prompts, learned=prompt == "soft")
    return PromptedUNet(planned, controller, has_background=not space.table.has_regions)


class Counting(nn.Module):
    """Counts the calls of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.network(*args, **kwargs)


def passthrough(*log_odds: Tensor) -> Prompted:
    """A pass whose log-odds are the given maps (B, Q, *spatial), one for each resolution; Q <= 8.

    Feature 0 of prompt k's first layer is relu(z_k), feature 1 is relu(-z_k); the last layer subtracts them.
    """
    batch, prompts = log_odds[0].shape[:2]
    layers = torch.zeros(len(HEAD_LAYERS), prompts, HEAD_WIDTH, HEAD_WIDTH)
    for k in range(prompts):
        layers[0, k, 0, k], layers[0, k, 1, k] = 1, -1
    layers[1, :, 0, 0] = layers[1, :, 1, 1] = 1
    layers[2, :, 1, 0], layers[2, :, 1, 1] = 1, -1
    weights = [layers[n, :, :out].flatten(1) for n, (_, out) in enumerate(HEAD_LAYERS)]
    biases = [torch.zeros(prompts, out) for _, out in HEAD_LAYERS]
    filters = torch.cat(weights + biases, dim=1).expand(batch, -1, -1)
    padding = [0, 0] * (log_odds[0].ndim - 2) + [0, HEAD_WIDTH - prompts]
    return Prompted([F.pad(z, padding) for z in log_odds], filters)


# Losses


def nnunet_loss(space: LabelSpace, deep_supervision: bool = True, batch_dice: bool = False) -> nn.Module:
    """As ``nnUNetTrainer._build_loss`` makes it."""
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": space.table.has_regions, "ddp": False}
    loss: nn.Module
    if space.table.has_regions:
        ignore = space.ignore_label is not None
        loss = DC_and_BCE_loss({}, dice, use_ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)
    else:
        loss = DC_and_CE_loss(
            dice, {}, ignore_label=space.ignore_label, dice_class=MemoryEfficientSoftDiceLoss
        )
    return DeepSupervisionWrapper(loss, SCALE_WEIGHTS) if deep_supervision else loss


def dice_ce(z: Tensor, y: Tensor, valid: Tensor | None = None) -> float:
    """(1 - Dice) + CE of one map, written out: the reference for everything batched."""
    keep = torch.ones_like(y, dtype=torch.bool) if valid is None else valid
    p, y = torch.sigmoid(z.detach().double())[keep], y.double()[keep]
    dice = (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)
    return float(1 - dice - (y * p.log() + (1 - y) * (1 - p).log()).sum() / max(len(y), 1))


def gradients(loss: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """Gradients of the parameters that learn and that the loss reaches."""
    learning = {n: p for n, p in network.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(learning.values()), allow_unused=True, retain_graph=True)
    return {n: g for n, g in zip(learning, grads, strict=True) if g is not None}


# Terms of a method


def step(method: Method, network: nn.Module, batch: Batch, seed: int = 0, progress: float = 0.5) -> Terms:
    return method.losses(network, batch, progress, generator(seed))


def values(terms: Terms) -> dict[str, float]:
    return {name: value.item() for name, (value, _) in terms.items()}


def assert_sound(terms: Terms, network: nn.Module, watched: Sequence[str] = ()) -> None:
    """Finite values, weights and gradients; what is watched, and nothing else, has no weight."""
    for name, (value, weight) in terms.items():
        assert value.ndim == 0 and torch.isfinite(value), name
        if name in watched:
            assert weight == 0 and not value.requires_grad, name
            continue
        assert weight > 0, name
        assert all(torch.isfinite(g).all() for g in gradients(value, network).values()), name
    assert torch.isfinite(total_loss(terms))


def check_strips(
    strips: Sequence[Sequence[Panel]], batch: Batch, rest: Sequence[str]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """A labelled and an unlabelled strip with these panels after the image: each with its image, by title."""
    assert batch.unlabeled is not None
    assert [[p.title for p in s] for s in strips] == [["labelled", "truth", *rest], ["unlabelled", *rest]]
    for strip, image in zip(strips, (batch.labeled, batch.unlabeled), strict=True):
        shown = {p.title: p.values for p in strip}
        assert all(v.shape == image.shape[2:] for v in shown.values())
        assert torch.equal(strip[0].values, image[0, 0])
        yield image[0, 0], shown
