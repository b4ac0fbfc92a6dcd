"""The batches of a training: labelled and unlabelled ones, and nnU-Net's for the online validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_ssl.data.two_stream import (
    Augmenter,
    TaskBalancedLoader,
    TwoStream,
    UnlabeledDataset,
    UnlabeledLoader,
    start_workers,
    with_nonzero_mask,
)


def make_loaders(
    trainer: Any, training: Any, validation: Any, unlabeled: dict[str, Path] | None, unlabeled_batch_size: int
) -> tuple[TwoStream, Augmenter]:
    """Workers for training and validation, augmented as nnU-Net does.

    Args:
        trainer: our adapter.
        training: nnU-Net's dataset of the labelled training cases.
        validation: the same of the validation cases.
        unlabeled: preprocessed image of every unlabelled case, ``None`` for a method that uses none.
        unlabeled_batch_size: unlabelled patches a batch.
    """
    rotation, dummy_2d, initial_size, axes = (
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )
    size = trainer.configuration_manager.patch_size
    use_mask = trainer.configuration_manager.use_mask_for_norm
    scales = trainer._get_deep_supervision_scales()
    labels = label_arguments(trainer.label_manager)

    def augment(scales: Any, **labels: Any) -> Any:
        return trainer.get_training_transforms(
            size, rotation, scales, axes, dummy_2d, use_mask_for_norm=use_mask, **labels
        )

    unlabeled_loader = None
    if unlabeled is not None:
        unlabeled_loader = UnlabeledLoader(
            UnlabeledDataset(unlabeled),
            unlabeled_batch_size,
            initial_size,
            size,
            trainer.label_manager,
            transforms=with_nonzero_mask(augment(None), use_mask),
            tasks=[trainer.task_table.known_task_of(case) for case in sorted(unlabeled)],
        )
    return start_workers(
        labeled_loader(trainer, training, initial_size, augment(scales, **labels)),
        unlabeled_loader,
        labeled_loader(trainer, validation, size, trainer.get_validation_transforms(scales, **labels)),
        get_allowed_n_proc_DA(),
        trainer.device,
    )


def labeled_loader(trainer: Any, dataset: Any, patch_size: Any, transforms: Any) -> TaskBalancedLoader:
    """Batches of labelled patches, of every task in turn."""
    return TaskBalancedLoader(
        dataset,
        trainer.batch_size,
        patch_size,
        trainer.configuration_manager.patch_size,
        trainer.label_manager,
        oversample_foreground_percent=trainer.oversample_foreground_percent,
        transforms=transforms,
        probabilistic_oversampling=trainer.probabilistic_oversampling,
        tasks=[trainer.task_table.task_of(case) for case in dataset.identifiers],
    )


def label_arguments(manager: Any) -> dict[str, Any]:
    """What nnU-Net's transforms want to know of the labels."""
    return {
        "foreground_labels": manager.foreground_labels,
        "regions": manager.foreground_regions if manager.has_regions else None,
        "ignore_label": manager.ignore_label,
    }
