"""Trainers in this process: equality with stock nnU-Net, hidden labels, bad input."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.errors import ConfigError, DataError, TaskError
from tests.integration.conftest import Workspace, write_scan

pytestmark = pytest.mark.integration

ONE, TWO, BOTH, REGIONS = "Dataset901_One", "Dataset902_Two", "Dataset903_Both", "Dataset905_Regions"
VERSEMI, SUPERVISED = "nnUNetTrainerVerSemi", "nnUNetTrainerSSLSupervised"
Make = Callable[..., Any]


@contextmanager
def edited(file: Path, edit: Callable[[Any], None]) -> Iterator[None]:
    """Change a JSON file for the time of a test."""
    before = file.read_text()
    content = json.loads(before)
    edit(content)
    file.write_text(json.dumps(content))
    try:
        yield
    finally:
        file.write_text(before)


def with_options(here: Workspace, dataset: str, **options: object) -> Any:
    """Plans ``small`` with more options for the time of a test."""
    plans = here.preprocessed(dataset) / "small.json"
    return edited(plans, lambda p: p["nnunet_ssl"]["options"].update(options))


@contextmanager
def extra_file(file: Path, write: Callable[[Path], None]) -> Iterator[None]:
    """Have a file for the time of a test."""
    write(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def losses(trainer: Any, steps: int = 3) -> list[dict[str, Any]]:
    """Start training and do some updates."""
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return [trainer.train_step(next(trainer.dataloader_train)) for _ in range(steps)]


def hidden(here: Workspace, dataset: str) -> list[str]:
    return json.loads((here.preprocessed(dataset) / "splits_final.json").read_text())[0]["unlabeled"]


@pytest.mark.parametrize("dataset", [ONE, REGIONS])
def test_supervised_equals_stock(make_trainer: Make, dataset: str) -> None:
    ours, stock = make_trainer(dataset, SUPERVISED), make_trainer(dataset, "nnUNetTrainer")
    ours.initialize()
    stock.initialize()
    stock.network.load_state_dict(ours.network.state_dict())
    batch = next(ours.get_dataloaders()[0])
    gradients = []
    for trainer in (ours, stock):
        trainer.optimizer = torch.optim.SGD(trainer.network.parameters(), 0.0)
        loss = trainer.train_step(batch)["loss"]
        gradients.append((loss, [p.grad.clone() for p in trainer.network.parameters() if p.grad is not None]))
    assert gradients[0][0] == gradients[1][0]
    for mine, theirs in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("dataset", [ONE, TWO, BOTH, REGIONS])
@pytest.mark.parametrize("trainer", [VERSEMI, "nnUNetTrainerUniSeMi", SUPERVISED])
def test_every_kind_of_dataset_trains_and_validates(make_trainer: Make, dataset: str, trainer: str) -> None:
    # Dataset902 is anisotropic: its patch of 8x32x32 is augmented in 2D
    made = make_trainer(dataset, trainer)
    outputs = losses(made, 2)
    assert all(np.isfinite(value) for output in outputs for value in output.values())
    made.on_validation_epoch_start()
    with torch.no_grad():
        output = made.validation_step(next(made.dataloader_val))
    assert np.isfinite(output["loss"])
    assert output["tp_hard"].shape == (len(made.task_table.prompts),)


def test_online_validation_counts_own_labels_only(make_trainer: Make) -> None:
    trainer = make_trainer(BOTH, VERSEMI)
    losses(trainer, 1)
    batch = next(trainer.dataloader_val)
    batch["keys"] = np.array(["One_c0", "One_c1"])
    batch["target"] = [torch.ones_like(t) for t in batch["target"]]
    trainer.network.eval()
    with torch.no_grad():
        output = trainer.validation_step(batch)
    counted = output["tp_hard"] + output["fp_hard"] + output["fn_hard"]
    assert counted[0] > 0
    assert counted[1] == counted[2] == 0


def assert_same_losses(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """But for the last bits: where an array lies in memory changes the order of a sum."""
    for one, other in zip(mine, theirs, strict=True):
        other = {k: float(v) for k, v in other.items()}
        assert {k: float(v) for k, v in one.items()} == pytest.approx(other, rel=1e-4)


def test_labels_of_unlabelled_cases_are_never_read(make_trainer: Make, here: Workspace) -> None:
    folder = here.preprocessed(ONE) / "nnUNetPlans_3d_fullres"
    files = [folder / f"{case}{ending}" for case in hidden(here, ONE) for ending in ("_seg.b2nd", ".pkl")]
    assert len(files) == 4
    truth = losses(make_trainer(ONE, VERSEMI))
    backup = {file: file.read_bytes() for file in files}
    try:
        for file in files:
            file.write_bytes(b"poison")
        assert_same_losses(losses(make_trainer(ONE, VERSEMI)), truth)
        for file in files:
            file.unlink()
        assert_same_losses(losses(make_trainer(ONE, VERSEMI)), truth)
    finally:
        for file, content in backup.items():
            file.write_bytes(content)


def test_tasks_are_balanced_in_both_streams(make_trainer: Make) -> None:
    trainer = make_trainer(BOTH, VERSEMI)
    trainer.initialize()
    streams, _ = trainer.get_dataloaders()
    for _ in range(5):
        batch = next(streams)
        for keys in (batch["keys"], batch["unlabeled_keys"]):
            assert sorted(str(k)[:4] for k in keys) == ["One_", "Two_"]


def test_new_replaced_and_removed_scans_are_noticed(make_trainer: Make, here: Workspace) -> None:
    images = here.root / "raw" / ONE / "imagesUn"
    folder = here.preprocessed(ONE) / "nnUNetPlans_3d_fullres_unlabeled"
    losses(make_trainer(ONE, VERSEMI), 1)
    old = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.b2nd")}
    assert len(old) == 3
    scan = np.random.default_rng(5).normal(size=(16, 24, 24)).astype(np.float32)
    abandoned, others = folder / ".u9.123.tmp.b2nd", folder / ".u9.124.tmp.b2nd"
    for file in (abandoned, others):
        file.write_bytes(b"half-written")
    os.utime(abandoned, (0, 0))
    with extra_file(images / "u9_0000.nii.gz", lambda f: write_scan(f, scan)):
        losses(make_trainer(ONE, VERSEMI), 1)
        new = {p.name: p.stat().st_mtime_ns for p in folder.glob("[!.]*.b2nd")}
        assert new.keys() == old.keys() | {"u9.b2nd"}
        assert all(new[name] == old[name] for name in old)
        write_scan(images / "u9_0000.nii.gz", scan + 1)
        losses(make_trainer(ONE, VERSEMI), 1)
        assert (folder / "u9.b2nd").stat().st_mtime_ns > new["u9.b2nd"]
    losses(make_trainer(ONE, VERSEMI), 1)
    assert {p.name for p in folder.glob("*.b2nd")} == {*old, others.name}  # another process may write it
    others.unlink()


def test_other_plans_make_preprocessed_scans_stale(make_trainer: Make, here: Workspace) -> None:
    losses(make_trainer(ONE, VERSEMI), 1)
    folder = here.preprocessed(ONE) / "nnUNetPlans_3d_fullres_unlabeled"
    old = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.b2nd")}

    def edit(plans: Any) -> None:
        plans["configurations"]["3d_fullres"]["spacing"] = [1.1, 1.0, 1.0]

    with edited(here.preprocessed(ONE) / "small.json", edit):
        losses(make_trainer(ONE, VERSEMI), 1)
        assert all(p.stat().st_mtime_ns > old[p.name] for p in folder.glob("*.b2nd"))
    losses(make_trainer(ONE, VERSEMI), 1)


def test_plans_without_our_block_mean_defaults(make_trainer: Make) -> None:
    trainer = make_trainer(ONE, VERSEMI, plans="nnUNetPlans")
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.initial_lr) == (1000, 250, 1e-2)


@pytest.mark.parametrize(("wanted", "axes"), [(None, (0, 1, 2)), ([1, 0], (0, 1)), ([], None)])
def test_axes_to_mirror(
    make_trainer: Make,
    here: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: list[int] | None,
    axes: tuple[int, ...] | None,
) -> None:
    """Labelled and unlabelled patches are mirrored alike, and so is prediction, by the checkpoint."""
    asked, stock = [], nnUNetTrainer.get_training_transforms

    def transforms(size: Any, rotation: Any, scales: Any, mirror: Any, *rest: Any, **named: Any) -> Any:
        asked.append(mirror)
        return stock(size, rotation, scales, mirror, *rest, **named)

    monkeypatch.setattr(nnUNetTrainer, "get_training_transforms", staticmethod(transforms))
    with with_options(here, ONE, mirror_axes=wanted):
        trainer = make_trainer(ONE, VERSEMI)
    losses(trainer, 1)
    assert set(asked) == {axes} and len(asked) >= 2
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    checkpoint = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert checkpoint["inference_allowed_mirroring_axes"] == axes


# Bad input, each before training


def test_an_axis_that_patches_lack(make_trainer: Make, here: Workspace) -> None:
    with with_options(here, ONE, mirror_axes=[2]):
        trainer = make_trainer(ONE, SUPERVISED, configuration="2d")
    with pytest.raises(ConfigError, match="mirror_axes=2: 2d has the axes 0, 1"):
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()


def test_unknown_option(make_trainer: Make, here: Workspace) -> None:
    def edit(plans: Any) -> None:
        plans["nnunet_ssl"]["options"]["mask_rato"] = 1

    with (
        edited(here.preprocessed(ONE) / "small.json", edit),
        pytest.raises(ConfigError, match="mask_rato.*Known"),
    ):
        make_trainer(ONE, VERSEMI)


def test_cascade(make_trainer: Make, here: Workspace) -> None:
    def edit(plans: Any) -> None:
        plans["configurations"]["3d_cascade_fullres"] = {
            "inherits_from": "3d_fullres",
            "previous_stage": "3d_lowres",
        }

    with (
        edited(here.preprocessed(ONE) / "small.json", edit),
        pytest.raises(ConfigError, match="Use 3d_fullres"),
    ):
        make_trainer(ONE, VERSEMI, configuration="3d_cascade_fullres")


def test_network_without_a_decoder(make_trainer: Make, here: Workspace) -> None:
    def edit(plans: Any) -> None:
        architecture = plans["configurations"]["3d_fullres"]["architecture"]
        architecture["network_class_name"] = "torch.nn.Identity"

    with edited(here.preprocessed(ONE) / "small.json", edit), pytest.raises(ConfigError, match="Identity"):
        make_trainer(ONE, VERSEMI).initialize()


def test_no_unlabelled_case(make_trainer: Make, here: Workspace) -> None:
    images = here.root / "raw" / ONE / "imagesUn"
    aside = images.with_name("aside")

    def edit(splits: Any) -> None:
        del splits[0]["unlabeled"]

    images.rename(aside)
    images.mkdir()
    try:
        with edited(here.preprocessed(ONE) / "splits_final.json", edit):
            with pytest.raises(DataError, match="No unlabelled case for fold 0"):
                losses(make_trainer(ONE, VERSEMI))
    finally:
        images.rmdir()
        aside.rename(images)


GOOD = np.random.default_rng(1).normal(size=(16, 24, 24)).astype(np.float32)
NAN = np.where(GOOD > 2, np.float32(np.nan), GOOD)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("bad_0000.nii.gz", lambda f: write_scan(f, NAN), "bad: .*NaN"),
        ("bad_0000.nii.gz", lambda f: write_scan(f, 0 * GOOD + 7), "bad: the image is constant"),
        ("bad_0000.nii.gz", lambda f: f.write_bytes(b"no image"), "bad: unreadable"),
        ("bad_0001.nii.gz", lambda f: write_scan(f, GOOD), "bad: .*_0000"),
        ("bad_0000.nii.gz", lambda f: write_scan(f, GOOD[:1]), "bad: .*3D"),
        ("bad.nii.gz", lambda f: write_scan(f, GOOD), "expected CASE_0000.nii.gz"),
    ],
    ids=["nan", "constant", "unreadable", "channels", "dimension", "name"],
)
def test_bad_scan(make_trainer: Make, here: Workspace, name: str, write: Any, message: str) -> None:
    file = here.root / "raw" / ONE / "imagesUn" / name
    with extra_file(file, write), pytest.raises(DataError, match=message):
        losses(make_trainer(ONE, VERSEMI))


@pytest.mark.parametrize("role", ["train", "val", "test"])
def test_a_case_of_two_parts(make_trainer: Make, here: Workspace, role: str) -> None:
    splits = here.preprocessed(ONE) / "splits_final.json"
    case = "t0" if role == "test" else json.loads(splits.read_text())[0][role][0]
    with edited(splits, lambda s: s[0]["unlabeled"].append(case)), pytest.raises(DataError, match=case):
        losses(make_trainer(ONE, VERSEMI))


def test_a_bare_scan_that_is_labelled_too(make_trainer: Make, here: Workspace) -> None:
    file = here.root / "raw" / ONE / "imagesUn" / "c0_0000.nii.gz"
    with extra_file(file, lambda f: write_scan(f, GOOD)), pytest.raises(DataError, match="also .*: c0"):
        losses(make_trainer(ONE, VERSEMI))


def test_task_without_a_labelled_case(make_trainer: Make, here: Workspace) -> None:
    def edit(splits: Any) -> None:
        splits[0]["train"] = [c for c in splits[0]["train"] if c.startswith("One_")]

    splits = here.preprocessed(BOTH) / "splits_final.json"
    with edited(splits, edit), pytest.raises(TaskError, match="'Two'"):
        losses(make_trainer(BOTH, VERSEMI))


def test_corrupt_preprocessed_file(make_trainer: Make, here: Workspace) -> None:
    file = here.preprocessed(ONE) / "nnUNetPlans_3d_fullres" / f"{hidden(here, ONE)[0]}.b2nd"
    before = file.read_bytes()
    file.write_bytes(before[: len(before) // 2])
    try:
        with pytest.raises(DataError, match=f"{file.name}: corrupt"):
            losses(make_trainer(ONE, VERSEMI))
    finally:
        file.write_bytes(before)


def test_task_info_needs_known_tasks(make_trainer: Make, here: Workspace) -> None:
    file = here.root / "raw" / BOTH / "imagesUn" / "stray_0000.nii.gz"
    plans = here.preprocessed(BOTH) / "small.json"
    with extra_file(file, lambda f: write_scan(f, GOOD)):
        losses(make_trainer(BOTH, VERSEMI), 1)  # a scan of unknown task is welcome
        with edited(plans, lambda p: p["nnunet_ssl"]["options"].update(task_info=True)):
            with pytest.raises(TaskError, match="stray"):
                losses(make_trainer(BOTH, VERSEMI), 1)
    losses(make_trainer(BOTH, VERSEMI), 1)


def test_text_prompts_travel_with_the_model(make_trainer: Make, here: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "prompts.npz"
    np.savez(file, left=np.ones(5), right=np.arange(5.0))
    options = {"prompt": "text", "prompt_file": str(file)}
    with edited(here.preprocessed(TWO) / "small.json", lambda p: p["nnunet_ssl"]["options"].update(options)):
        trainer = make_trainer(TWO, VERSEMI)
        losses(trainer, 1)
        assert trainer.network.head["seg_layers"].prompts.shape == (3, 5)
        shutil.move(file, tmp_path / "gone.npz")
        trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
        rebuilt = type(trainer).build_network_architecture(
            trainer.plans_manager, trainer.configuration_manager, 1, 3, enable_deep_supervision=False
        )
        rebuilt.load_state_dict(trainer.network.state_dict())
        with pytest.raises(ConfigError, match="prompt_file"):
            make_trainer(TWO, VERSEMI)


def test_task_variable_is_ignored_in_training(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_ssl_task", "liver")
    losses(make_trainer(ONE, VERSEMI), 1)


def test_stock_trainer_reads_the_same_split_and_plans(make_trainer: Make, here: Workspace) -> None:
    trainer = make_trainer(ONE, "nnUNetTrainer")
    assert isinstance(trainer, nnUNetTrainer)
    train, val = trainer.do_split()
    assert len(train) == 2
    assert not set(hidden(here, ONE)) & {*train, *val}


def test_preprocessed_scans_equal_nnunet_preprocessing(make_trainer: Make, here: Workspace) -> None:
    """A scan in imagesUn is prepared as nnU-Net prepares the same scan in imagesTr."""
    raw, name = here.root / "raw" / ONE, "c0_0000.nii.gz"
    copy = raw / "imagesUn" / "copy_0000.nii.gz"
    with extra_file(copy, lambda f: shutil.copy(raw / "imagesTr" / name, f)):
        losses(make_trainer(ONE, VERSEMI), 1)
        ours = blosc2.open(
            str(here.preprocessed(ONE) / "nnUNetPlans_3d_fullres_unlabeled" / "copy.b2nd"), mode="r"
        )[:]
    theirs = blosc2.open(str(here.preprocessed(ONE) / "nnUNetPlans_3d_fullres" / "c0.b2nd"), mode="r")[:]
    np.testing.assert_array_equal(ours, theirs)
    losses(make_trainer(ONE, VERSEMI), 1)
