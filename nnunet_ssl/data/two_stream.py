"""Labelled and unlabelled batches side by side, through nnU-Net's own loader, augmentation and workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import blosc2
import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset, nnUNetDatasetBlosc2

Augmenter: TypeAlias = NonDetMultiThreadedAugmenter | SingleThreadedAugmenter


class UnlabeledDataset(nnUNetBaseDataset):
    """Images without labels, from one or several folders of preprocessed arrays.

    Opens the image of a case and nothing else: no segmentation, no properties, hence no foreground locations.

    Args:
        files: preprocessed array of each case.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__("", sorted(files))
        self.files = dict(files)
        # nnU-Net's own rule for memory mapping, which fails on Windows
        self.mmap_kwargs = nnUNetDatasetBlosc2("", []).mmap_kwargs

    def load_case(self, identifier: str) -> tuple[Any, np.ndarray, None, dict[str, Any]]:
        """Image, a blank segmentation that takes no memory, no previous stage, no foreground locations."""
        path = str(self.files[identifier])
        data = blosc2.open(urlpath=path, mode="r", dparams={"nthreads": 1}, **self.mmap_kwargs)
        blank = np.broadcast_to(np.zeros((), dtype=np.int16), (1, *data.shape[1:]))
        return data, blank, None, {"class_locations": {}}

    @staticmethod
    def save_case(
        data: np.ndarray, seg: np.ndarray, properties: dict, output_filename_truncated: str
    ) -> None:
        """Not for this dataset: ``nnunet_ssl.data.preprocessing`` writes it."""
        raise NotImplementedError("Unlabelled cases are written by nnunet_ssl.data.preprocessing.")

    @staticmethod
    def get_identifiers(folder: str) -> list[str]:
        """Not for this dataset: its cases are given."""
        raise NotImplementedError("The cases of an UnlabeledDataset are given to it.")


class TaskBalancedLoader(nnUNetDataLoader):
    """nnU-Net's loader that draws tasks evenly, so that small datasets are not drowned by large ones.

    With one task it draws as nnU-Net does. The order within a batch is random, because nnU-Net forces
    foreground by position.
    """

    def __init__(self, *args: Any, tasks: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cases = {
            t: [c for c, own in zip(self.indices, tasks, strict=True) if own == t] for t in sorted(set(tasks))
        }

    def get_indices(self) -> Sequence[str]:
        """Case ids of one batch: every task as often as the batch allows, the rest by lot."""
        if len(self.cases) == 1:
            return super().get_indices()
        tasks = list(self.cases)
        rounds = -(-self.batch_size // len(tasks))
        drawn = np.concatenate([np.random.permutation(tasks) for _ in range(rounds)])[: self.batch_size]
        return [str(np.random.choice(self.cases[t])) for t in np.random.permutation(drawn)]


class UnlabeledLoader(TaskBalancedLoader):
    """The same loader for images without labels: random positions, no targets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, oversample_foreground_percent=0.0, **kwargs)
        self.has_ignore = False  # else positions would be drawn from annotated voxels

    def generate_train_batch(self) -> dict[str, Any]:
        """``data`` (B, C, *spatial) and ``keys``."""
        batch = super().generate_train_batch()
        return {"data": batch["data"], "keys": batch["keys"]}


class NonzeroMask(BasicTransform):
    """Marks voxels outside the nonzero mask by -1 in the blank segmentation, as nnU-Net's preprocessing does.

    nnU-Net normalises inside the mask only, so that outside all channels are 0, or nearly so where splines
    ring after resampling. Inside few voxels are so close to the mean in every channel. The stock augmentation
    then blanks these voxels again after adding noise.
    """

    tolerance = 1e-3  # standard deviations

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Rewrite ``segmentation`` from ``image``."""
        outside = (data_dict["image"].abs() < self.tolerance).all(0, keepdim=True)
        data_dict["segmentation"] = data_dict["segmentation"].masked_fill(outside, -1)
        return data_dict


def with_nonzero_mask(transforms: BasicTransform, use_mask_for_norm: Iterable[bool]) -> BasicTransform:
    """Stock augmentation, preceded by ``NonzeroMask`` where the plans normalise inside a mask."""
    return ComposeTransforms([NonzeroMask(), transforms]) if any(use_mask_for_norm) else transforms


class TwoStream:
    """Iterator over labelled batches that carry an unlabelled one: ``unlabeled`` and ``unlabeled_keys``."""

    def __init__(self, labeled: Augmenter, unlabeled: Augmenter | None) -> None:
        self.labeled = labeled
        self.unlabeled = unlabeled

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        batch: dict[str, Any] = dict(next(self.labeled))
        if self.unlabeled is not None:
            unlabeled = next(self.unlabeled)
            batch["unlabeled"], batch["unlabeled_keys"] = unlabeled["data"], unlabeled["keys"]
        return batch

    def close(self) -> None:
        """Stop the workers."""
        for stream in (self.labeled, self.unlabeled):
            if isinstance(stream, NonDetMultiThreadedAugmenter):
                stream._finish()


def augmenter(
    loader: nnUNetDataLoader, num_processes: int, num_cached: int, device: torch.device
) -> Augmenter:
    """nnU-Net's workers around a loader; none (0) augments in this process."""
    if num_processes == 0:
        return SingleThreadedAugmenter(loader, None)
    return NonDetMultiThreadedAugmenter(
        data_loader=loader,
        transform=None,
        num_processes=num_processes,
        num_cached=num_cached,
        seeds=None,
        pin_memory=device.type == "cuda",
        wait_time=0.002,
    )


def start_workers(
    training: TaskBalancedLoader,
    unlabeled: UnlabeledLoader | None,
    validation: TaskBalancedLoader,
    num_processes: int,
    device: torch.device,
) -> tuple[TwoStream, Augmenter]:
    """Start as many workers as nnU-Net would, shared by the two training streams, and draw a first batch.

    Args:
        training: labelled training data.
        unlabeled: unlabelled training data, if the method uses it.
        validation: data of the online validation.
        num_processes: nnU-Net's number of augmentation workers; 0 augments in this process.
        device: where training runs; memory is pinned for CUDA.
    """
    least = min(num_processes, 1)
    for_unlabeled = 0 if unlabeled is None else max(least, num_processes // 2)
    for_labeled = max(least, num_processes - for_unlabeled)
    streams = TwoStream(
        augmenter(training, for_labeled, max(6, for_labeled // 2), device),
        None
        if unlabeled is None
        else augmenter(unlabeled, for_unlabeled, max(6, for_unlabeled // 2), device),
    )
    validating = augmenter(validation, max(least, num_processes // 2), max(3, num_processes // 4), device)
    next(streams)
    next(validating)
    return streams, validating
