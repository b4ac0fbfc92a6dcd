"""A whole benchmark through its command, killed and continued, and its report."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ONE = "Dataset901_One"
BASELINE = "nnUNetTrainerSSLSupervised"
PSEUDO = "pseudo-labels"
# Six labelled cases: one to test, one to validate, four to train on; three scans in imagesUn
ASKED = ("-d", "901", "-c", "3d_fullres", "-p", "tiny", "--labeled", "2", "--pseudo-labels", "--val", "0.2")
ASKED = (*ASKED, "--test", "1", "-device", "cpu", "-np", "1", "--disable_tta")


@pytest.fixture(scope="module")
def asked(workspace: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], Path]:
    workspace.configure(901, "tiny", "patch_size=16,24,24", "num_epochs=1")
    folder = tmp_path_factory.mktemp("benchmark") / "b"
    return ("nnUNetv2_ssl", "benchmark", *ASKED, "-o", str(folder)), folder


def names(folder: Path, file: str) -> set[str]:
    return {str(p.parent.relative_to(folder / "runs")) for p in (folder / "runs").rglob(file)}


def wait_for(file: Path, process: subprocess.Popen[bytes], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not file.is_file():
        assert process.poll() is None and time.monotonic() < deadline, f"no {file}"
        time.sleep(0.1)


def test_from_dry_run_to_report(workspace: Any, asked: tuple[tuple[str, ...], Path], tmp_path: Path) -> None:
    command, folder = asked
    splits = workspace.preprocessed(ONE) / "splits_final.json"
    before = splits.read_text(), splits.stat().st_mtime_ns
    dry = workspace.run(*command, "--dry-run").stdout
    assert "4 runs, 0 done; 1 test cases" in dry and "unknown (nothing was measured yet" in dry
    assert not folder.exists()
    # Killed when the first run is done, and continued
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        env={**os.environ, **workspace.env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    first = f"{BASELINE}/labeled_2/seed_0"
    try:
        wait_for(folder / "runs" / first / "done.json", process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert names(folder, "done.json") == {first}
    dry = workspace.run(*command, "--dry-run").stdout
    assert "4 runs, 1 done" in dry and "(from the runs of this benchmark that are done)" in dry
    finished = workspace.run(*command).stdout
    assert "1 of 4 runs are done" in finished
    assert names(folder, "done.json") == {
        f"{method}/labeled_{n}/seed_0" for method in (BASELINE, PSEUDO) for n in ("2", "all")
    }
    assert (splits.read_text(), splits.stat().st_mtime_ns) == before
    assert not list(folder.rglob("retraining"))  # the copy of the data is gone
    trainings = {p.name for p in (folder / "nnUNet_results" / ONE).iterdir()}
    assert trainings == {f"{BASELINE}__tiny_seed0{end}__3d_fullres" for end in ("", "_pseudo")}
    check_equal_budget_and_unseen_tests(folder)
    again = workspace.run(*command).stdout
    assert "4 of 4 runs are done" in again

    said = workspace.run("nnUNetv2_ssl", "report", "-i", folder, "-o", tmp_path / "report").stdout
    assert "Too few test cases (1) to tell" in said
    html = (tmp_path / "report" / "report.html").read_text()
    assert "All 4 runs are done." in html and "nnunetv2 2." in html
    assert "nnUNetv2_train 901 3d_fullres 0 -p tiny_seed0" in html
    assert "worst case" in html


def check_equal_budget_and_unseen_tests(folder: Path) -> None:
    plan = json.loads((folder / "benchmark.json").read_text())
    tests = set(plan["tests"][0])
    logs = list((folder / "nnUNet_results").rglob("training_log_*.txt"))
    assert len(logs) == 4
    for log in logs:
        text = log.read_text()
        assert re.findall(r"^.*Epoch (\d+) *$", text, re.MULTILINE) == ["0"]
        assert not any(f"predicting {case}" in text for case in tests)
    for fold in plan["folds"]:
        assert not tests & {*fold["train"], *fold["val"], *fold["unlabeled"]}
    for evaluation in (folder / "runs").rglob("evaluation.json"):
        content = json.loads(evaluation.read_text())
        assert {case["case"] for case in content["cases"]} == tests and not content["problems"]


@pytest.fixture
def done(workspace: Any, asked: tuple[tuple[str, ...], Path]) -> Path:
    """The complete benchmark; done already, unless this test runs alone."""
    workspace.run(*asked[0])
    return asked[1]


def test_a_run_that_dies_is_named_and_the_rest_goes_on(
    workspace: Any, asked: tuple[tuple[str, ...], Path], done: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "b"
    shutil.copytree(done, folder, symlinks=True)
    fold = folder / "nnUNet_results" / ONE / "nnUNetTrainerVerSemi__tiny_seed0__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").write_bytes(b"half a checkpoint")
    command = [str(folder) if part == str(done) else part for part in asked[0]]
    failed = workspace.run(*command, "--trainers", "nnUNetTrainerVerSemi", check=False)
    assert failed.returncode == 2
    assert re.search(r"1 of 2 run\(s\) failed:\n  nnUNetTrainerVerSemi/labeled_2/seed_0", failed.stderr)
    assert "nnUNetTrainerVerSemi/labeled_all/seed_0" in names(folder, "done.json")
    error = json.loads(next((folder / "runs").rglob("failed.json")).read_text())["error"]
    assert "exit status 1" in error and "load_checkpoint" in error  # the end of its log says why
    workspace.run("nnUNetv2_ssl", "report", "-i", folder, "-o", tmp_path / "report")
    html = (tmp_path / "report" / "report.html").read_text()
    assert "5 of 6 runs are done, 1 failed" in html and "load_checkpoint" in html
    # The cause removed, it begins anew and completes
    (fold / "checkpoint_latest.pth").unlink()
    workspace.run(*command, "--trainers", "nnUNetTrainerVerSemi")
    assert len(names(folder, "done.json")) == 6 and not names(folder, "failed.json")


def test_what_cannot_be_compared_is_refused(workspace: Any, asked: tuple[tuple[str, ...], Path]) -> None:
    command, _ = asked
    unknown = workspace.run(*command, "--trainers", "nnUNetTrainerNone", "--dry-run", check=False)
    assert unknown.returncode == 2 and "finds no trainer nnUNetTrainerNone" in unknown.stderr
    stock = workspace.run(*command, "--trainers", "nnUNetTrainer", "--dry-run", check=False)
    assert stock.returncode == 2
    assert "nnUNetTrainer does not read the plans' budget (1 epochs of 2 updates)" in stock.stderr
