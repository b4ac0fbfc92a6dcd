"""The demo: its steps as a user would type them, and the command."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_ssl.commands import demo
from nnunet_ssl.demo.sequence import FAST, TRAINER, Budget, Workplace, demo_steps
from nnunet_ssl.errors import DataError


def test_the_sequence_is_what_a_user_types(tmp_path: Path) -> None:
    steps = demo_steps(Workplace(tmp_path), "cpu", Budget())
    programs = [step.argv[:2] if step.argv[0] == "nnUNetv2_ssl" else step.argv[:1] for step in steps[1:]]
    assert programs == [
        ("nnUNetv2_plan_and_preprocess",),
        ("nnUNetv2_ssl", "configure"),
        ("nnUNetv2_ssl", "benchmark"),
        ("nnUNetv2_ssl", "report"),
    ]
    assert TRAINER in steps[3].argv and "cpu" in steps[3].argv


def test_every_command_of_ours_parses(tmp_path: Path) -> None:
    from nnunet_ssl.cli import build_parser

    for budget in (Budget(), FAST):
        for step in demo_steps(Workplace(tmp_path), "cpu", budget)[1:]:
            if step.argv[0] == "nnUNetv2_ssl":
                build_parser().parse_args(step.argv[1:])


def test_the_data_step_removes_what_another_budget_left(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    stale = [place.dataset / "imagesTr" / "old_0000.nii.gz", place.benchmark / "old", place.report / "old"]
    for file in stale:
        file.parent.mkdir(parents=True)
        file.touch()
    demo_steps(place, "cpu", FAST)[0].function()
    assert not any(file.exists() for file in stale)
    assert (place.dataset / "dataset.json").is_file()
    assert len(list((place.dataset / "imagesUn").iterdir())) == 4


def test_environment_can_be_overridden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "/somewhere/else")
    monkeypatch.setenv("nnUNet_def_n_proc", "7")
    environment = Workplace(tmp_path).environment()
    assert environment["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")  # a demo never touches the user's data
    assert environment["nnUNet_def_n_proc"] == "7"


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match="holds other files"):
        demo.run(parser.parse_args(["-o", str(tmp_path), "-device", "cpu"]))


def test_the_command_runs_the_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnunet_ssl import steps
    from nnunet_ssl.report import results, tables

    monkeypatch.setattr(steps, "run_steps", lambda steps, folder, env: [60.0] * len(steps))
    monkeypatch.setattr(results, "read_results", lambda folder: SimpleNamespace(folder=folder))
    shown = {"header": ["method", "label"], "rows": [["VerSemi", "vessel"]]}
    monkeypatch.setattr(
        tables, "label_rows", lambda results: shown if results.folder.name == "benchmark" else {}
    )
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    demo.run(parser.parse_args(["-o", str(tmp_path / "new"), "-device", "cpu", "--fast"]))
    out = capsys.readouterr().out
    assert "5.0 minutes" in out and "vessel" in out
