"""A whole benchmark: looked at, interrupted, continued, and its report.

The benchmark's commands are called in this process, by the functions that the scripts call: an import of
torch for each of them would cost more than all trainings.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nnunet_ssl import cli
from nnunet_ssl import steps as all_steps
from tests.integration.conftest import Workspace

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ONE = "Dataset901_One"
BASELINE = "nnUNetTrainerSSLSupervised"
PSEUDO = "pseudo-labels"
# Six labelled cases: one to test, one to validate, four to train on; three scans in imagesUn
ASKED = ("-d", "901", "-c", "3d_fullres", "-p", "tiny", "--labeled", "2", "--pseudo-labels", "--val", "0.2")
ASKED = (*ASKED, "--test", "1", "-device", "cpu", "-np", "0", "--disable_tta")


class InProcess:
    """Stands for ``_run_command``: what a script would do, its output in the step's log."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.interrupt_at: Callable[[str], bool] = lambda text: False

    def __call__(
        self, step: all_steps.Command, number: str, log: Path, env: dict[str, str], *rest: object
    ) -> None:
        if self.interrupt_at(step.text):
            raise KeyboardInterrupt
        self.commands.append(step.text)
        (script,) = entry_points(group="console_scripts", name=step.argv[0])
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            log.open("w") as output,
            contextlib.redirect_stdout(output),
            mock.patch.dict("os.environ", {**env, **step.env}),
            mock.patch("sys.argv", list(step.argv)),
        ):
            status = script.load()()
        assert not status, step.text


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    found = InProcess()
    monkeypatch.setattr(all_steps, "_run_command", found)
    return found


def names(folder: Path, file: str) -> set[str]:
    return {str(p.parent.relative_to(folder / "runs")) for p in (folder / "runs").rglob(file)}


@pytest.mark.filterwarnings("ignore:The distutils package is deprecated")  # of what nnU-Net imports
def test_from_dry_run_to_report(
    here: Workspace, runner: InProcess, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> str:
        capfd.readouterr()
        assert cli.main([*arguments]) == 0
        return capfd.readouterr().out

    here.configure(901, "tiny", "patch_size=16,24,24", "num_epochs=1")
    folder = tmp_path / "b"
    benchmark = ("benchmark", *ASKED, "-o", str(folder))
    splits = here.preprocessed(ONE) / "splits_final.json"
    before = splits.read_text(), splits.stat().st_mtime_ns
    dry = call(*benchmark, "--dry-run")
    assert "4 runs, 0 done; 1 test cases" in dry and "update was tried out on cpu" in dry
    assert not folder.exists()

    # Interrupted in the third run, when the supervised model has predicted the unlabelled scans
    runner.interrupt_at = lambda text: text.startswith("nnUNet_raw=") and "nnUNetv2_train" in text
    with pytest.raises(KeyboardInterrupt):
        call(*benchmark)
    baselines = {f"{BASELINE}/labeled_{n}/seed_0" for n in ("2", "all")}
    assert names(folder, "done.json") == baselines and not names(folder, "failed.json")
    dry = call(*benchmark, "--dry-run")
    assert "4 runs, 2 done" in dry and "(from the runs of this benchmark that are done)" in dry
    assert "2 of 4 runs are done, 2 still to do" in reported(folder, tmp_path, call)

    runner.interrupt_at = lambda text: False
    done_before = list(runner.commands)
    assert "2 of 4 runs are done" in call(*benchmark)
    assert not set(runner.commands[len(done_before) :]) & set(done_before)  # no step was done twice
    assert names(folder, "done.json") == {
        f"{method}/labeled_{n}/seed_0" for method in (BASELINE, PSEUDO) for n in ("2", "all")
    }
    assert (splits.read_text(), splits.stat().st_mtime_ns) == before
    assert not list(folder.rglob("retraining"))  # the copy of the data is gone
    trainings = {p.name for p in (folder / "nnUNet_results" / ONE).iterdir()}
    assert trainings == {f"{BASELINE}__tiny_seed0{end}__3d_fullres" for end in ("", "_pseudo")}
    check_equal_budget_and_unseen_tests(folder)
    count = len(runner.commands)
    assert "4 of 4 runs are done" in call(*benchmark)
    assert not [text for text in runner.commands[count:] if "preprocess" not in text]

    html = reported(folder, tmp_path, call)
    assert "Too few test cases (1) to tell" in html
    assert "All 4 runs are done." in html and "nnunetv2 2." in html
    assert "nnUNetv2_train 901 3d_fullres 0 -p tiny_seed0" in html
    assert "worst case" in html


def reported(folder: Path, tmp_path: Path, call: Callable[..., str]) -> str:
    call("report", "-i", str(folder), "-o", str(tmp_path / "report"))
    return (tmp_path / "report" / "report.html").read_text()


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


def test_what_cannot_be_compared_is_refused(here: Workspace, tmp_path: Path, capsys: Any) -> None:
    for trainer, message in (
        ("nnUNetTrainerNone", "finds no trainer nnUNetTrainerNone"),
        ("nnUNetTrainer", "nnUNetTrainer ignores options of small (num_epochs=2"),
    ):
        asked = ["benchmark", *ASKED, "-p", "small", "-o", str(tmp_path), "--trainers", trainer, "--dry-run"]
        assert cli.main(asked) == 2
        assert message in capsys.readouterr().err
