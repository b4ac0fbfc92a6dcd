"""The folder of a benchmark, the commands of its runs, and doing them: resumed, failed, on a cluster."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ssl import cli, locks
from nnunet_ssl.benchmark import cluster, dry_run, execute, references, workplace
from nnunet_ssl.benchmark.curves import save_curves
from nnunet_ssl.benchmark.draw import choose_tests, grow_plan, make_plan
from nnunet_ssl.benchmark.dry_run import overview
from nnunet_ssl.benchmark.estimate import (
    budget,
    clock,
    estimate,
    estimate_untried,
    seconds_of_done,
    seconds_per_update,
)
from nnunet_ssl.benchmark.execute import RunsFailedError, do_run, do_runs, order_for_jobs
from nnunet_ssl.benchmark.plan import BASELINE, PSEUDO_LABELS, Plan, Run, Settings, Wish
from nnunet_ssl.benchmark.source import Source, load_source
from nnunet_ssl.benchmark.steps import Machine, Steps
from nnunet_ssl.benchmark.workplace import Workplace, prepare, read_benchmark
from nnunet_ssl.commands.benchmark import check_trainers
from nnunet_ssl.config import TrainingConfig
from nnunet_ssl.conversion.split import Cases
from nnunet_ssl.curve_names import COLLAPSED
from nnunet_ssl.errors import ConfigError, DataError, TaskError
from nnunet_ssl.report import repeat
from nnunet_ssl.steps import Action, Command

NAME = "Dataset901_One"
PLANS: dict[str, Any] = {
    "plans_name": "small",
    "configurations": {
        "3d_fullres": {"data_identifier": "small_3d", "architecture": {}},
        "other": {"inherits_from": "3d_fullres", "batch_size": 3},
    },
    "nnunet_ssl": {"options": {"num_epochs": 2, "num_iterations_per_epoch": 5}},
}
TASKS = [{"name": n, "labels": [n], "prefix": f"{n}_"} for n in ("left", "right")]


def make_dataset(root: Path, cases: list[str], bare: list[str], tasks: bool = False) -> None:
    """A dataset whose files have names and content, but are no images: nothing here reads them."""
    raw, preprocessed = root / "raw" / NAME, root / "preprocessed" / NAME
    description: dict[str, Any] = {"channel_names": {"0": "MR"}, "file_ending": ".nii.gz", "numTraining": 9}
    description["labels"] = {"background": 0, "left": 1, "right": 2}
    description["nnunet_ssl"] = {"tasks": TASKS} if tasks else {}
    files = {
        **{raw / "imagesTr" / f"{c}_0000.nii.gz": c for c in cases},
        **{raw / "labelsTr" / f"{c}.nii.gz": c for c in cases},
        **{raw / "imagesUn" / f"{c}_0000.nii.gz": c for c in bare},
        **{
            preprocessed / "small_3d" / f"{c}{end}": c
            for c in cases
            for end in (".b2nd", "_seg.b2nd", ".pkl")
        },
        **{preprocessed / "gt_segmentations" / f"{c}.nii.gz": c for c in cases},
        raw / "dataset.json": json.dumps(description),
        preprocessed / "dataset.json": json.dumps(description),
        preprocessed / "dataset_fingerprint.json": "{}",
        preprocessed / "small.json": json.dumps(PLANS),
        preprocessed / "splits_final.json": "the user's",
    }
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setattr(references, "check_references", lambda *args: [])  # the files are no images
    return tmp_path


def bench(root: Path, wish: Wish | None = None, **settings: Any) -> tuple[Workplace, Plan, Source]:
    source = load_source("901")
    chosen = dataclasses.replace(Settings(NAME, "3d_fullres", "small"), **settings)
    table = source.tasks
    cases = Cases({c: table.task_of(c) for c in source.training}, [t.name for t in table.tasks])
    tests = choose_tests(cases, chosen.test, chosen.folds, None, source.test)
    wish = wish or Wish(("nnUNetTrainerX",), ("2",), (0, 5), pseudo_labels=True)
    plan, _ = make_plan(chosen, wish, cases, tests, source.bare)
    return Workplace(root / "bench", chosen), plan, source


def fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        digest.update(f"{file.relative_to(folder)} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


CASES = [f"c{i}" for i in range(10)]


def test_the_users_folders_are_left_alone(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, ["u0"])
    before = [fingerprint(nnunet / name) for name in ("raw", "preprocessed", "results")]
    place, plan, source = bench(nnunet)
    for _ in range(2):  # what is there already stays
        prepare(place, plan, source, (TrainingConfig,))
    assert before == [fingerprint(nnunet / name) for name in ("raw", "preprocessed", "results")]


def test_the_folder_is_a_dataset_without_its_test_cases(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, ["u0"])
    place, plan, source = bench(nnunet)
    prepare(place, plan, source, (TrainingConfig,))
    assert read_benchmark(place.folder) == (place, plan)
    tests = set(plan.tests[0])
    there = {p.name for p in (place.preprocessed / "small_3d").iterdir()}
    assert there == {f"{c}{e}" for c in set(CASES) - tests for e in (".b2nd", "_seg.b2nd", ".pkl")}
    assert not tests & {p.name[:2] for p in (place.preprocessed / "gt_segmentations").iterdir()}
    assert {p.name[:2] for p in (place.raw / "imagesTs").iterdir()} == tests
    assert {p.name for p in place.test_labels(0).iterdir()} == {f"{c}.nii.gz" for c in tests}
    assert [p.name for p in (place.raw / "imagesUn").iterdir()] == ["u0_0000.nii.gz"]
    for case in tests:
        assert (place.test_images(0) / f"{case}_0000.nii.gz").read_text() == case
    splits = json.loads((place.preprocessed / "splits_final.json").read_text())
    assert [set(fold) for fold in splits] == [{"train", "val", "unlabeled"}] * 4
    for fold, written in zip(plan.folds, splits, strict=True):
        assert tuple(written["train"]) == fold.train
    for seed in (0, 5):
        plans = json.loads((place.preprocessed / f"small_seed{seed}.json").read_text())
        assert plans["plans_name"] == f"small_seed{seed}"
        assert plans["nnunet_ssl"]["options"] == {
            "num_epochs": 2,
            "num_iterations_per_epoch": 5,
            "seed": seed,
        }


def test_scans_that_are_added_later_are_in_no_run(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, ["u0", "u1"])
    place, plan, source = bench(nnunet)
    prepare(place, plan, source, (TrainingConfig,))
    (source.raw / "imagesUn" / "u2_0000.nii.gz").write_text("u2")
    assert {p.read_text() for p in (place.raw / "imagesUn").iterdir()} == {"u0", "u1"}
    _, now, _ = bench(nnunet)
    with pytest.raises(ConfigError, match=r"imagesUn has 1 scan\(s\) more and 0 less"):
        grow_plan(plan, now)


@pytest.mark.parametrize("root", ["raw", "preprocessed"])
def test_embedded_sentences_come_along(nnunet: Path, root: str) -> None:
    make_dataset(nnunet, CASES, [])
    place, plan, source = bench(nnunet)
    (nnunet / root / NAME / "prompt_embedding.npz").write_text("vectors")
    prepare(place, plan, source, (TrainingConfig,))
    assert (place.preprocessed / "prompt_embedding.npz").read_text() == "vectors"


def use_tiff(root: Path) -> None:
    """The dataset as 3D TIFF, whose spacing lies in a file beside each scan and each label."""
    for file in list((root / "raw" / NAME).rglob("*.nii.gz")):
        name = file.name.removesuffix(".nii.gz")
        file = file.rename(file.with_name(f"{name}.tif"))
        file.with_name(f"{name.removesuffix('_0000')}.json").write_text(f"spacing of {file.read_text()}")
    for file in (root / name / NAME / "dataset.json" for name in ("raw", "preprocessed")):
        file.write_text(file.read_text().replace(".nii.gz", ".tif"))


def spacings(folder: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in folder.glob("*.json")}


def test_the_spacing_beside_a_tiff_comes_along(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, ["u0"])
    use_tiff(nnunet)
    place, plan, source = bench(nnunet)
    prepare(place, plan, source, (TrainingConfig,))
    of_tests = {case: f"spacing of {case}" for case in plan.tests[0]}
    for folder in (place.test_images(0), place.test_labels(0), place.raw / "imagesTs"):
        assert spacings(folder) == of_tests
    assert spacings(place.raw / "imagesUn") == {"u0": "spacing of u0"}


def test_what_was_interrupted_is_completed(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(nnunet, CASES, ["u0"])
    place, plan, source = bench(nnunet)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(workplace, "_link_tests", interrupt)
        prepare(place, plan, source, (TrainingConfig,))
    assert read_benchmark(place.folder) == (place, plan)  # so the folder holds no "other files"
    prepare(place, plan, source, (TrainingConfig,))
    assert {p.name[:2] for p in (place.raw / "imagesTs").iterdir()} == set(plan.tests[0])


def test_links_hold_where_the_benchmark_is_moved_and_are_mended(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, ["u0"])
    place, plan, source = bench(nnunet)
    prepare(place, plan, source, (TrainingConfig,))
    moved = Workplace(nnunet / "far" / "away" / "bench", place.settings)
    moved.folder.parent.mkdir(parents=True)
    place.folder.rename(moved.folder)
    links = [file for file in moved.folder.rglob("*") if file.is_symlink()]
    assert links and all(link.exists() for link in links)
    for link in links:
        link.unlink()
        link.symlink_to(nnunet / "gone")
    prepare(moved, plan, source, (TrainingConfig,))
    assert all(link.exists() for link in links)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_with_disjoint_test_sets_all_cases_are_there(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, [])
    place, plan, source = bench(nnunet, folds=2, test="")
    prepare(place, plan, source, (TrainingConfig,))
    assert len(list((place.preprocessed / "small_3d").glob("*_seg.b2nd"))) == 10
    assert not (place.raw / "imagesTs").exists()
    assert {p.name for p in place.test_labels(1).iterdir()} == {f"{c}.nii.gz" for c in plan.tests[1]}


def test_what_cannot_be_is_refused(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, [])
    place, plan, source = bench(nnunet, test="c1,c2")
    prepare(place, plan, source, (TrainingConfig,))
    changed = {**PLANS, "nnunet_ssl": {"options": {"num_epochs": 3}}}
    (nnunet / "preprocessed" / NAME / "small.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match="small changed since this benchmark was begun"):
        prepare(place, plan, source, (TrainingConfig,))
    (nnunet / "preprocessed" / NAME / "small.json").write_text(json.dumps(PLANS))
    for file in (nnunet / "preprocessed" / NAME / "small_3d").glob("c7*"):
        file.unlink()
    elsewhere = Workplace(nnunet / "elsewhere", place.settings)
    with pytest.raises(
        DataError, match=r"1 case\(s\) are not in .*small_3d \(c7\).*nnUNetv2_preprocess -d 901"
    ):
        prepare(elsewhere, plan, source, (TrainingConfig,))
    assert not elsewhere.folder.exists()
    with pytest.raises(DataError, match="holds no benchmark"):
        read_benchmark(nnunet)


# Commands


def texts(steps: Steps, run: Run) -> list[str]:
    folder = str(steps.place.folder)
    return [step.text.replace(folder, "B") for step in steps.of(run) if isinstance(step, Command)]


def test_commands_of_a_run(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, [])
    place, plan, source = bench(nnunet)
    without = Workplace(place.folder, dataclasses.replace(place.settings, mirroring=False))
    steps = Steps(without, plan, source, Machine("cpu", processes=1))
    run = next(r for r in plan.runs() if r.method == "nnUNetTrainerX" and r.seed == 5)
    assert run.fold == 2
    model = "-c 3d_fullres -p small_seed5 -tr nnUNetTrainerX -device cpu"
    out = "B/runs/nnUNetTrainerX/labeled_2/seed_5"
    assert texts(steps, run) == [
        "nnUNetv2_train 901 3d_fullres 2 -p small_seed5 -tr nnUNetTrainerX -device cpu --c",
        f"nnUNetv2_predict -d 901 -i B/test/part_0/images -o {out}/predictions -f 2 {model} --disable_tta "
        "-npp 1 -nps 1",
        f"nnUNetv2_ssl evaluate -ref B/test/part_0/labels -pred {out}/predictions "
        f"-djfile B/nnUNet_raw/{NAME}/dataset.json -o {out}/evaluation.json -np 1",
    ]
    assert steps.before_all() == []
    several = Steps(place, plan, source, Machine(num_gpus=2))
    assert "-num_gpus 2 --c" in texts(several, run)[0]
    assert "--disable_tta" not in texts(several, run)[1]


def test_each_task_is_asked_for(nnunet: Path) -> None:
    cases = [f"{t}_{i}" for t in ("left", "right") for i in range(6)]
    make_dataset(nnunet, cases, ["u0"], tasks=True)
    place, plan, source = bench(nnunet, test="left_0,right_1,right_2")
    prepare(place, plan, source, (TrainingConfig,))
    steps = Steps(place, plan, source, Machine("cpu"))
    predictions = [t for t in texts(steps, plan.runs()[0]) if "predict " in t]
    assert [t.split(" ")[0] for t in predictions] == ["nnUNet_ssl_task=left", "nnUNet_ssl_task=right"]
    assert "-i B/test/part_0/images/right -o" in predictions[1]
    assert [p.name for p in place.test_images(0, "left").iterdir()] == ["left_0_0000.nii.gz"]
    (command,) = steps.before_all()
    assert isinstance(command, Command) and command.argv[:2] == ("nnUNetv2_ssl", "preprocess")


def test_retraining_takes_predictions_for_labels(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, ["u0"])
    place, plan, source = bench(nnunet)
    prepare(place, plan, source, (TrainingConfig,))
    steps = Steps(place, plan, source, Machine("cpu", processes=1))
    run = next(r for r in plan.runs() if r.method == PSEUDO_LABELS and r.labeled == "2" and r.seed == 5)
    gather, predict, build, preprocess, train, *_, clean = steps.of(run)
    folder = place.run(run) / "retraining"
    assert isinstance(gather, Action) and isinstance(build, Action) and isinstance(clean, Action)
    gather.function()
    hidden = plan.folds[run.fold].unlabeled
    assert {p.name[:2] for p in (folder / "to_predict").iterdir()} == {*hidden, "u0"}
    with pytest.raises(DataError, match=r"Expected 6 label file\(s\) that are missing"):
        build.function()
    (folder / "predicted").mkdir()
    for case in (*hidden, "u0"):
        (folder / "predicted" / f"{case}.nii.gz").write_text(f"predicted {case}")
    build.function()
    raw = folder / "nnUNet_raw" / NAME
    labels = {p.name[:2]: p.read_text() for p in (raw / "labelsTr").iterdir()}
    fold = plan.folds[run.fold]
    assert labels == {c: c for c in (*fold.train, *fold.val)} | {c: f"predicted {c}" for c in (*hidden, "u0")}
    assert not set(labels) & set(plan.tests[0])
    split = json.loads((folder / "nnUNet_preprocessed" / NAME / "splits_final.json").read_text())[run.fold]
    assert set(split["train"]) == {*fold.train, *hidden, "u0"} and split["val"] == list(fold.val)
    plans = json.loads((folder / "nnUNet_preprocessed" / NAME / "small_seed5_pseudo.json").read_text())
    same = json.loads((place.preprocessed / "small_seed5.json").read_text())
    assert plans == {**same, "plans_name": "small_seed5_pseudo"}  # the same budget
    assert predict.text.endswith(f"-tr {BASELINE} -device cpu -npp 1 -nps 1")
    for command in (preprocess, train):
        assert isinstance(command, Command) and command.env["nnUNet_raw"] == str(folder / "nnUNet_raw")
    assert f"-p small_seed5_pseudo -tr {BASELINE}" in train.text
    clean.function()
    assert not folder.exists()
    assert (nnunet / "raw" / NAME / "imagesTr" / "c0_0000.nii.gz").is_file()


def test_retraining_keeps_the_spacing_beside_a_tiff(nnunet: Path) -> None:
    make_dataset(nnunet, CASES, ["u0"])
    use_tiff(nnunet)
    place, plan, source = bench(nnunet)
    prepare(place, plan, source, (TrainingConfig,))
    run = next(r for r in plan.runs() if r.method == PSEUDO_LABELS and r.labeled == "2" and r.seed == 0)
    gather, _, build, *_ = Steps(place, plan, source, Machine("cpu", processes=1)).of(run)
    folder, fold = place.run(run) / "retraining", plan.folds[run.fold]
    gather.function()
    predicted = (*fold.unlabeled, "u0")
    assert spacings(folder / "to_predict") == {case: f"spacing of {case}" for case in predicted}
    (folder / "predicted").mkdir()
    for case in predicted:
        for ending in ("tif", "json"):  # nnU-Net's writer leaves both
            (folder / "predicted" / f"{case}.{ending}").write_text(f"predicted {case}")
    build.function()
    raw = folder / "nnUNet_raw" / NAME
    of_labels = {case: f"spacing of {case}" for case in (*fold.train, *fold.val)}
    assert spacings(raw / "labelsTr") == of_labels | {case: f"predicted {case}" for case in predicted}
    assert spacings(raw / "imagesTr") == of_labels | {case: f"spacing of {case}" for case in predicted}


# The command

ASKED = ["benchmark", "-d", "901", "-c", "3d_fullres", "-p", "small", "--dry-run"]


def test_scans_of_images_un_may_be_all_that_is_unlabelled(
    nnunet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dry_run, "seconds_of_update", lambda *args: 1.0)
    make_dataset(nnunet, CASES, ["u0"])
    assert cli.main([*ASKED, "-device", "cpu", "--folds", "2", "--trainers", "nnUNetTrainerBCP"]) == 0
    assert "4 runs, 0 done; 5 + 5 test cases" in capsys.readouterr().out
    _, plan, _ = bench(nnunet, Wish(("nnUNetTrainerBCP",)), folds=2, test="")
    again = cli.build_parser().parse_args(shlex.split(repeat.command(plan))[1:])
    assert (again.labeled, again.seeds, again.folds) == ([], [0], 2)


@pytest.mark.parametrize(
    ("trainers", "time"),
    [
        ([], "about 3 min 20 s ("),
        (["--trainers", "nnUNetTrainerBCP"], "6 min 40 s to 13 min 20 s ("),
    ],
)
def test_the_estimate_is_one_number_where_all_runs_are_supervised(
    nnunet: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trainers: list[str],
    time: str,
) -> None:
    monkeypatch.setattr(dry_run, "seconds_of_update", lambda *args: 10.0)
    make_dataset(nnunet, CASES, [])
    assert cli.main([*ASKED, "-device", "cpu", "--labeled", "2", *trainers]) == 0
    said = capsys.readouterr().out
    assert f"one after another: {time}" in said and ("times as long" in said) == bool(trainers)


@pytest.mark.parametrize("labeled", [[], ["--labeled", "all"]])
def test_something_must_be_unlabelled(
    nnunet: Path, labeled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(nnunet, CASES, [])
    assert cli.main([*ASKED, *labeled]) == 2
    assert "--labeled: expected a number of labelled cases" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "device"),
    [
        ([], "cpu"),
        (["--slurm"], "cuda"),
        (["--slurm", "partition=gpu"], "cuda"),
        (["--slurm", "cluster=local"], "cpu"),
        (["--slurm", "-device", "cpu"], "cpu"),
    ],
)
def test_only_jobs_of_slurm_train_on_what_is_not_here(
    nnunet: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    device: str,
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(dry_run, "seconds_of_update", lambda *args: tried.append(args[-1]) or 1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    make_dataset(nnunet, CASES, [])
    assert cli.main([*ASKED, "--labeled", "2", *arguments]) == 0
    assert tried == ([] if device == "cuda" else ["cpu"])  # what is not here is not tried out
    assert ("without cuda here no update could be tried out" in capsys.readouterr().out) == (not tried)


def check_asked(
    root: Path, *trainers: str, configuration: str = "3d_fullres", tasks: bool = False, **options: Any
) -> None:
    """What the command checks of trainers, for a scan in imagesUn that belongs to no task."""
    make_dataset(root, [f"{t}_{i}" for t in ("left", "right") for i in range(6)], ["u0"], tasks)
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans = {**PLANS, "nnunet_ssl": {"options": options}}
    plans["configurations"] = {**PLANS["configurations"], "cascade": cascade}
    (root / "preprocessed" / NAME / "small.json").write_text(json.dumps(plans))
    _, plan, source = bench(root, Wish(trainers, ("2",)), configuration=configuration, test="left_0")
    check_trainers(plan, source)


def test_stock_training_may_be_compared_where_it_is_what_the_plans_ask_for(nnunet: Path) -> None:
    free = {"save_every": 5, "monitor_batches": 0}
    asked = {"num_epochs": 1000, "initial_lr": 0.01, "mask": "slice", **free}
    check_asked(nnunet, "nnUNetTrainer", "nnUNetTrainerBCP", **asked)


@pytest.mark.parametrize(
    ("trainer", "options", "message"),
    [
        ("nnUNetTrainer_5epochs", {}, "got nnUNetTrainer_5epochs, which has its own"),
        ("nnUNetTrainer", {"num_epochs": 5}, r"nnUNetTrainer ignores options of small \(num_epochs=5\)"),
        ("nnUNetTrainer", {"optimizer": "adamw"}, r"ignores options of small \(optimizer=adamw\)"),
        ("nnUNetTrainerNone", {}, "finds no trainer nnUNetTrainerNone"),
    ],
)
def test_trainers_that_ignore_the_plans_are_refused(
    nnunet: Path, trainer: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_asked(nnunet, "nnUNetTrainerBCP", trainer, **options)


def test_what_every_run_would_refuse_is_refused_before(nnunet: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{BASELINE} cannot train 'cascade'.*Use 3d_fullres or 3d_lowres"):
        check_asked(nnunet, configuration="cascade")
    with pytest.raises(ConfigError, match="propl_prompts=text needs embedded sentences"):
        check_asked(nnunet, "nnUNetTrainerProPL", propl_prompts="text")
    with pytest.raises(TaskError, match="nnUNetTrainerProPL needs the task of every unlabelled case.*: u0"):
        check_asked(nnunet, "nnUNetTrainerProPL", tasks=True)
    with pytest.raises(TaskError, match="task_info=true needs the task of .*: u0.*or set task_info=false"):
        check_asked(nnunet, "nnUNetTrainerVerSemi", tasks=True, task_info=True)
    check_asked(nnunet, "nnUNetTrainerVerSemi", tasks=True)
    check_asked(nnunet, "nnUNetTrainerProPL")  # of one task, to which every scan belongs


# Doing runs


def python(code: str) -> Command:
    return Command("Step", (sys.executable, "-c", code))


@dataclasses.dataclass(frozen=True)
class Fake(Steps):
    """Each run appends its name to a file; those of method ``broken`` fail."""

    broken: str = ""

    def of(self, run: Run) -> list[Any]:
        file = self.place.folder / "order.txt"
        code = f"open({str(file)!r}, 'a').write({run.name + chr(10)!r})"
        if run.method == self.broken:
            return [python(code), python("print('the cause'); raise SystemExit(3)")]
        return [python(code)]


def fake(root: Path, broken: str = "") -> tuple[Fake, Path]:
    make_dataset(root, CASES, [])
    wish = Wish(("nnUNetTrainerX",), ("2",), (0,), pseudo_labels=True)
    place, plan, source = bench(root, wish)
    place.folder.mkdir()
    return Fake(place, plan, source, broken=broken), place.folder / "order.txt"


def test_one_failure_does_not_end_the_others(nnunet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps, order = fake(nnunet, broken="nnUNetTrainerX")
    runs = steps.plan.runs()
    with pytest.raises(RunsFailedError, match=r"1 of 4 run\(s\) failed:\n  nnUNetTrainerX/labeled_2/seed_0"):
        do_runs(steps, runs)
    assert order.read_text().splitlines() == [r.name for r in runs]
    failed = json.loads((steps.place.run(runs[3]) / "failed.json").read_text())
    assert "the cause" in failed["error"] and "demo" not in failed["error"]
    assert [steps.place.is_done(r) for r in runs] == [True, True, True, False]
    done = json.loads((steps.place.run(runs[0]) / "done.json").read_text())
    assert done["commands"] == [s.text for s in steps.of(runs[0])] and "torch" in done["versions"]
    capsys.readouterr()
    repaired = dataclasses.replace(steps, broken="")
    do_runs(repaired, runs)
    assert order.read_text().splitlines()[4:] == []  # its first step had been done, the others are done
    assert capsys.readouterr().out.count("done before") == 4
    assert repaired.place.is_done(runs[3])
    assert not (steps.place.run(runs[3]) / "failed.json").exists()


def test_an_unforeseen_error_does_not_end_the_others_either(nnunet: Path) -> None:
    steps, order = fake(nnunet)
    broken = steps.plan.runs()[2]

    @dataclasses.dataclass(frozen=True)
    class Breaking(Fake):
        def of(self, run: Run) -> list[Any]:
            def fail() -> None:
                raise OSError(28, "No space left on device")

            return [Action("Break", "# no space", fail)] if run == broken else super().of(run)

    breaking = Breaking(steps.place, steps.plan, steps.source)
    with pytest.raises(RunsFailedError, match=r"1 of 4 run\(s\) failed:\n.*OSError: .*No space left"):
        do_runs(breaking, steps.plan.runs())
    assert len(order.read_text().splitlines()) == 3
    assert "No space left" in json.loads((steps.place.run(broken) / "failed.json").read_text())["error"]


def test_a_run_that_is_begun_again_is_not_failed_any_more(nnunet: Path) -> None:
    steps, _ = fake(nnunet)
    run = steps.plan.runs()[0]
    failed = steps.place.run(run) / "failed.json"
    failed.parent.mkdir(parents=True)
    failed.write_text('{"error": "the machine was switched off"}')

    class Looking(Fake):
        def of(self, run: Run) -> list[Any]:
            assert not failed.exists()
            return super().of(run)

    do_run(Looking(steps.place, steps.plan, steps.source), run)
    assert steps.place.is_done(run)


def test_a_run_whose_files_are_broken_can_be_done_again(nnunet: Path) -> None:
    steps, order = fake(nnunet)
    run = steps.plan.runs()[0]
    do_run(steps, run)
    folder = steps.place.run(run)
    (folder / "done.json").unlink()  # what the report says
    shutil.rmtree(folder / "stamps")
    do_run(steps, run)
    assert order.read_text().splitlines() == [run.name, run.name]


@pytest.mark.parametrize("wish", ["nnUNet_ssl_task", "nnUNet_ssl_prompts", "nnUNet_ssl_unseen"])
def test_what_is_asked_for_in_the_shell_is_not_asked_for_here(
    nnunet: Path, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    steps, order = fake(nnunet)
    monkeypatch.setenv(wish, "left")

    class Asking(Fake):
        def of(self, run: Run) -> list[Any]:
            code = f"import os; open({str(order)!r}, 'w').write(os.environ[{wish!r}])"
            return [python(code)]

    do_run(Asking(steps.place, steps.plan, steps.source), steps.plan.runs()[0])
    assert order.read_text() == ""


def test_retraining_waits_for_its_baseline(nnunet: Path) -> None:
    steps, _ = fake(nnunet, broken=BASELINE)
    with pytest.raises(
        RunsFailedError, match=r"pseudo-labels.*: it starts from .*labeled_2/seed_0, which is not"
    ):
        do_runs(steps, steps.plan.runs())


@pytest.mark.skipif(os.name == "nt", reason="locks within one process differ")
def test_two_processes_do_not_do_the_same_run(nnunet: Path) -> None:
    import fcntl

    steps, order = fake(nnunet)
    run = steps.plan.runs()[0]
    steps.place.run(run).mkdir(parents=True)
    with (steps.place.run(run) / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is at it"):
            do_run(steps, run)
    do_run(steps, run)  # the lock ends with its holder
    assert order.read_text() == run.name + "\n"


@pytest.mark.skipif(os.name == "nt", reason="no child inherits a lock there")
def test_a_training_that_outlives_its_benchmark_keeps_the_lock(nnunet: Path) -> None:
    steps, order = fake(nnunet)
    run, pid = steps.plan.runs()[0], nnunet / "pid"

    class Leaving(Fake):
        def of(self, run: Run) -> list[Any]:  # what is left is out of reach, as if we had been killed
            code = (
                "import subprocess, sys; slow = [sys.executable, '-c', 'import time; time.sleep(60)']; "
                "left = subprocess.Popen(slow, start_new_session=True, close_fds=False); "
                f"open({str(pid)!r}, 'w').write(str(left.pid))"
            )
            return [python(code)]

    do_run(Leaving(steps.place, steps.plan, steps.source), run)
    (steps.place.run(run) / "done.json").unlink()
    try:
        with pytest.raises(locks.BusyError, match="another process is at it"):
            do_run(steps, run)
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)
    assert not order.exists()


@pytest.mark.skipif(os.name == "nt", reason="locks within one process differ")
def test_two_processes_share_the_runs(nnunet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    steps, order = fake(nnunet)
    runs = steps.plan.runs()
    assert runs[2].method == PSEUDO_LABELS  # which builds on the first
    steps.place.run(runs[0]).mkdir(parents=True)
    with (steps.place.run(runs[0]) / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert do_runs(steps, runs) == [runs[0], runs[2]]  # no failure
        said = capsys.readouterr().out
    assert order.read_text().splitlines() == [run.name for run in (runs[1], runs[3])]
    assert f"Left to another process that is at them, or builds on what it does:\n  {runs[0].name}" in said
    assert not list(nnunet.rglob("failed.json"))
    assert do_runs(steps, runs) == []
    assert all(map(steps.place.is_done, runs))


@pytest.mark.skipif(os.name == "nt", reason="locks within one process differ")
def test_preparing_waits_for_another_process(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then sees what that one has made."""
    import fcntl

    make_dataset(nnunet, CASES, [])
    asked = [*ASKED[:-1], "--labeled", "2", "-device", "cpu", "-o", str(nnunet / "bench"), "--val", "0.2"]
    monkeypatch.setattr(execute, "do_runs", lambda steps, runs: [])
    (nnunet / "bench").mkdir()
    with (nnunet / "bench" / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def other_is_done(_: float) -> None:
            assert [file.name for file in (nnunet / "bench").iterdir()] == ["lock"]
            fcntl.flock(other, fcntl.LOCK_UN)
            assert cli.main([*asked, "--seeds", "3"]) == 0

        monkeypatch.setattr(execute.time, "sleep", other_is_done)
        assert cli.main([*asked, "--seeds", "1"]) == 0
    _, plan = read_benchmark(nnunet / "bench")
    assert [(fold.seed, fold.labeled) for fold in plan.folds] == [(3, "2"), (3, "all"), (1, "2"), (1, "all")]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(
    nnunet: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(file: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "_lock", refuse)
    steps, order = fake(nnunet)
    with pytest.raises(
        RunsFailedError, match=r"4 of 4 run\(s\) failed:\n.*bench.* cannot .*Name a folder on another one"
    ):
        do_runs(steps, steps.plan.runs())
    assert not order.exists()


@pytest.mark.parametrize(
    ("left", "said"),
    [(0, "\nAll done. The answer: "), (2, "\nDone, but for 2 run(s) of another process. So far: ")],
)
def test_the_end_tells_what_is_left_to_others(
    nnunet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], left: int, said: str
) -> None:
    make_dataset(nnunet, CASES, [])
    monkeypatch.setattr(execute, "do_runs", lambda steps, runs: runs[:left])
    folder = nnunet / "my bench"
    assert cli.main([*ASKED[:-1], "--labeled", "2", "-device", "cpu", "-o", str(folder)]) == 0
    assert f"{said}nnUNetv2_ssl report -i '{folder}' -o '{folder}/report'" in capsys.readouterr().out


def test_curves_are_taken_from_the_checkpoint(tmp_path: Path) -> None:
    logging = {"ssl/labeled": [0.5, np.float32(0.25)], "mean_fg_dice": [float("nan")], "dice": [[0.1], [0.2]]}
    torch.save({"logging": logging, "current_epoch": 1}, tmp_path / "checkpoint_final.pth")
    (tmp_path / "debug.json").write_text('{"gpu_name": "A GPU"}')
    save_curves(tmp_path, tmp_path / "out" / "curves.json")
    written = json.loads((tmp_path / "out" / "curves.json").read_text())
    curves = {"ssl/labeled": [0.5, 0.25], "mean_fg_dice": [None], "dice": [[0.1], [0.2]]}
    assert written == {"curves": curves, "gpu": "A GPU", "epoch": 1, "options": {}, "warnings": []}


def test_options_and_warnings_are_taken_along(tmp_path: Path) -> None:
    torch.save({"logging": {}, "current_epoch": 9}, tmp_path / "checkpoint_final.pth")
    (tmp_path / "ssl_config.json").write_text('{"options": {"seed": 3, "mask": "slice"}}')
    lines = ["Epoch 7 ", "a line", f"{COLLAPSED} they were empty.", "Epoch 8 "]
    log = "".join(f"2026-01-01 10:00:00.000000: {line} \n" for line in lines)
    (tmp_path / "training_log_1.txt").write_text(log)
    (tmp_path / "training_log_2.txt").write_text(log)  # went on from a checkpoint before it
    save_curves(tmp_path, tmp_path / "curves.json")
    written = json.loads((tmp_path / "curves.json").read_text())
    assert written["options"] == {"seed": 3, "mask": "slice"}
    assert written["warnings"] == ["epoch 7: they were empty."]


# Estimate


def test_estimate_from_what_was_measured(nnunet: Path) -> None:
    steps, _ = fake(nnunet)
    runs, place = steps.plan.runs(), steps.place
    assert budget(PLANS) == (2, 5) and budget({}) == (1000, 250)
    assert estimate(runs, {}, {}, (2, 5)) is None
    supervised = [run.method in (BASELINE, PSEUDO_LABELS) for run in runs]
    assert supervised.count(True) == 3 and len(runs) == 4
    assert estimate_untried(runs, 0.5, (2, 5)) == ((3 + 2) * 5.0, (3 + 6) * 5.0)
    log = nnunet / "results" / NAME / "nnUNetTrainer__small__3d_fullres" / "fold_0" / "training_log_1.txt"
    log.parent.mkdir(parents=True)
    log.write_text("Epoch time: 50.0 s\nEpoch time: 75.0 s\nEpoch time: 9000.0 s\n")
    assert seconds_per_update(NAME, "small", "3d_fullres", 5) == {"nnUNetTrainer": 75 / 250}
    (log.parent / "ssl_config.json").touch()
    per_update = seconds_per_update(NAME, "small", "3d_fullres", 5)
    assert per_update == {"nnUNetTrainer": 15.0}
    assert estimate(runs, {}, per_update, (2, 5))[0] == 4 * 10 * 15.0
    assert seconds_per_update(NAME, "other", "3d_fullres", 5) == {}
    folder = place.run(runs[0])
    folder.mkdir(parents=True)
    (folder / "done.json").write_text('{"seconds": {"1 Train": 90.0, "2 Predict": 10.0}}')
    done = seconds_of_done(place, runs)
    assert done == {BASELINE: 100.0}
    # the retraining counts as one more supervised training, an unknown trainer as the mean of the known
    assert estimate(runs[1:], done, {}, (2, 5)) == (
        300.0,
        "from the runs of this benchmark that are done; for nnUNetTrainerX the mean of the others",
    )
    assert runs[3].method == "nnUNetTrainerX"
    mixed, basis = estimate(runs[3:], done, {"nnUNetTrainerX": 20.0}, (2, 5))
    assert mixed == 200.0 and "that are done, and from the epochs of your trainings" in basis
    table = overview(runs, place, [(2, 5), (7, 0)], (2, 5)).splitlines()
    assert table[2].split() == [BASELINE, "2", "2", "5", "0", "10", "done"]
    assert table[4].split() == [PSEUDO_LABELS, "2", "2", "5", "0", "20", "to", "do"]
    assert clock(7500) == "2 h 05 min"


# Cluster


def test_jobs_hold_what_builds_on_each_other(nnunet: Path) -> None:
    steps, _ = fake(nnunet)
    jobs = order_for_jobs(steps.plan.runs())
    assert [[r.method for r in job] for job in jobs] == [
        [BASELINE, PSEUDO_LABELS],
        [BASELINE],
        ["nnUNetTrainerX"],
    ]


def test_slurm_parameters() -> None:
    name, parameters = cluster.parse_parameters(["partition=gpu", "mem_gb=64", "slurm_qos=low", "time=60"])
    assert name == "slurm"
    assert parameters == {"slurm_partition": "gpu", "mem_gb": 64, "slurm_qos": "low", "slurm_time": 60}
    assert cluster.parse_parameters(["cluster=local"]) == ("local", {})
    with pytest.raises(ConfigError, match="expected KEY=VALUE such as partition=gpu, got 'gpu'"):
        cluster.parse_parameters(["gpu"])
    with pytest.raises(ConfigError, match="expected one of slurm, local, debug, got 'pbs'"):
        cluster.parse_parameters(["cluster=pbs"])


@pytest.mark.parametrize("executor", ["debug", pytest.param("local", marks=pytest.mark.slow)])
def test_jobs_run_through_submitit(nnunet: Path, executor: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    steps, order = fake(nnunet)
    real = Steps(steps.place, steps.plan, steps.source)
    # Another process cannot import the class of a test module: there, the runs are done before
    chosen = steps if executor == "debug" else real
    runs = steps.plan.runs()[: 4 if executor == "debug" else 1]
    if executor == "local":
        for run in runs:
            steps.place.run(run).mkdir(parents=True)
            (steps.place.run(run) / "done.json").write_text("{}")
    jobs = cluster.submit(chosen, runs, nnunet / "jobs", executor, {"timeout_min": 5})
    assert len(jobs) == (3 if executor == "debug" else 1)
    cluster.wait_for(jobs)
    assert all(steps.place.is_done(run) for run in runs)
    if executor == "debug":
        jobs_in_order = [run.name for job in order_for_jobs(runs) for run in job]
        assert order.read_text().splitlines() == jobs_in_order
    else:
        assert "done before" in jobs[0][2].stdout()


def test_a_failed_job_is_named(nnunet: Path) -> None:
    pytest.importorskip("submitit")
    steps, _ = fake(nnunet, broken="nnUNetTrainerX")
    jobs = cluster.submit(steps, steps.plan.runs(), nnunet / "jobs", "debug", {})
    with pytest.raises(Exception, match=r"nnUNetTrainerX/labeled_2/seed_0"):
        cluster.wait_for(jobs)
    others = [run for run in steps.plan.runs() if run.method != "nnUNetTrainerX"]
    assert others and all(map(steps.place.is_done, others))


def test_a_job_can_be_continued(nnunet: Path) -> None:
    submitit = pytest.importorskip("submitit")
    steps, _ = fake(nnunet)
    job = cluster.Job(steps, tuple(steps.plan.runs()))
    assert isinstance(job.checkpoint(), submitit.helpers.DelayedSubmission)


@pytest.mark.skipif(os.name == "nt", reason="SLURM's commands are shell scripts here")
def test_jobs_are_queued_again_more_often_than_thrice(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    for name, said in (("srun", ""), ("sbatch", "Submitted batch job 12")):
        (nnunet / name).write_text(f"#!/bin/sh\necho {said}\n")
        (nnunet / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(nnunet), prepend=os.pathsep)
    steps, _ = fake(nnunet)
    ((name, _, job),) = cluster.submit(steps, steps.plan.runs()[:1], nnunet / "jobs", "slurm", {})
    assert name == "12" and job.submission()._timeout_countdown == 100


def test_without_slurm_it_says_so(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    steps, _ = fake(nnunet)
    with pytest.raises(ConfigError, match="--slurm: .*sbatch|--slurm: .*[Ss]lurm"):
        cluster.submit(steps, steps.plan.runs(), nnunet / "jobs", "slurm", {})
    cluster.check_installed()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match="pip install submitit"):
        cluster.check_installed()
