"""The demo: its steps as a user would type them, its results and pictures, and the command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.commands import demo
from nnunet_ssl.demo.pictures import Column, draw_overlays, worst_median_best
from nnunet_ssl.demo.sequence import (
    FAST,
    TRAINERS,
    Budget,
    Workplace,
    collect_results,
    demo_steps,
    draw_pictures,
    show_results,
)
from nnunet_ssl.errors import DataError


def test_the_sequence_is_what_a_user_types(tmp_path: Path) -> None:
    steps = demo_steps(Workplace(tmp_path), "cpu", Budget())
    programs = [step.argv[:2] if step.argv[0] == "nnUNetv2_ssl" else step.argv[:1] for step in steps[1:]]
    assert programs == [
        ("nnUNetv2_plan_and_preprocess",),
        ("nnUNetv2_ssl", "split"),
        ("nnUNetv2_ssl", "configure"),
        ("nnUNetv2_ssl", "preprocess"),
        *[("nnUNetv2_train",)] * 2,
        *[("nnUNetv2_predict",)] * 4,
        *[("nnUNetv2_ssl", "evaluate")] * 2,
    ]
    for verb in ("Train", "Predict Vessel", "Predict Organ"):  # a fair comparison: only the trainer differs
        baseline, method = (step for step in steps if step.title.startswith(verb))
        assert [a for a in baseline.argv if a not in method.argv and TRAINERS[0] not in a] == []
        assert baseline.env == method.env


def test_every_command_of_ours_parses(tmp_path: Path) -> None:
    from nnunet_ssl.cli import build_parser

    for budget in (Budget(), FAST):
        for step in demo_steps(Workplace(tmp_path), "cpu", budget)[1:]:
            if step.argv[0] == "nnUNetv2_ssl":
                build_parser().parse_args(step.argv[1:])


def test_the_data_step_removes_what_another_budget_left(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    stale = [place.dataset / "imagesTr" / "old_0000.nii.gz", place.predictions(TRAINERS[0]) / "old.nii.gz"]
    for file in stale:
        file.parent.mkdir(parents=True)
        file.touch()
    demo_steps(place, "cpu", FAST)[0].function()
    assert not any(file.exists() for file in stale)
    assert (place.dataset / "dataset.json").is_file()
    assert [f.name for f in place.to_predict("Organ").iterdir()] == ["Organ_Ts000_0000.nii.gz"]


def test_environment_can_be_overridden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "/somewhere/else")
    monkeypatch.setenv("nnUNet_def_n_proc", "7")
    environment = Workplace(tmp_path).environment()
    assert environment["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")  # a demo never touches the user's data
    assert environment["nnUNet_def_n_proc"] == "7"


def fake_results(place: Workplace) -> None:
    """Test scans, predictions and scores of two models, as the commands would leave them."""
    cases = {"Vessel_Ts000": ("Vessel", "vessel", 1), "Organ_Ts000": ("Organ", "organ", 2)}
    array = np.zeros((4, 8, 8), np.uint8)
    array[1:3, 2:6, 2:6] = 1
    for case, (_, _, value) in cases.items():
        targets = [
            place.dataset / "imagesTs" / f"{case}_0000.nii.gz",
            place.dataset / "labelsTs" / f"{case}.nii.gz",
        ]
        for file in (*targets, *(place.predictions(t) / f"{case}.nii.gz" for t in TRAINERS)):
            file.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array * value), str(file))
    for dice, trainer in enumerate(TRAINERS):
        content = {
            "mean": {"tasks": {task: {"Dice": dice, "HD95": None} for task, _, _ in cases.values()}},
            "cases": [{"case": c, "labels": {label: {"Dice": dice}}} for c, (_, label, _) in cases.items()],
        }
        place.evaluation(trainer).write_text(json.dumps(content))


def test_results_and_pictures(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    fake_results(place)
    table = show_results(collect_results(place, FAST, "cpu"))
    assert "Vessel Dice" in table and "Organ 95HD (mm)" in table and TRAINERS[1] in table
    written = json.loads(place.results.read_text())
    assert written["trainers"][TRAINERS[1]]["Organ"]["Dice"] == 1
    files = draw_pictures(place)
    assert [f.name for f in files] == ["vessel.png", "organ.png"]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)


def test_worst_median_best() -> None:
    scores = {"a": [0.2, 0.3], "b": [0.9, 0.9], "c": [0.5, 0.6], "d": [0.1, None]}
    assert worst_median_best(scores) == {"worst": "a", "median": "c", "best": "b"}
    assert worst_median_best({"a": [1.0], "b": [0.0]}) == {"worst": "b", "best": "a"}
    assert worst_median_best({"a": [1.0]}) == {"worst": "a"}
    assert worst_median_best({"a": [None]}) == {}


def test_an_empty_prediction_is_drawn_without_outline(tmp_path: Path) -> None:
    mask = np.zeros((3, 6, 6), bool)
    reference = mask.copy()
    reference[1, 0:3, 0:3] = True
    draw_overlays(
        [Column("a", np.random.default_rng(0).random(mask.shape), reference, {"m": mask})],
        tmp_path / "a.png",
        "t",
    )
    assert (tmp_path / "a.png").is_file()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match="holds other files"):
        demo.run(parser.parse_args(["-o", str(tmp_path), "-device", "cpu"]))


def test_the_command_runs_the_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnunet_ssl import steps as run_module

    def instead(steps: list, folder: Path, env: dict) -> list[float]:
        fake_results(Workplace(folder))
        return [60.0 for _ in steps]

    monkeypatch.setattr(run_module, "run_steps", instead)
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    demo.run(parser.parse_args(["-o", str(tmp_path / "new"), "-device", "cpu", "--fast"]))
    out = capsys.readouterr().out
    assert "13.0 minutes" in out and "Vessel Dice" in out and "results.json" in out
    assert (tmp_path / "new" / "pictures" / "organ.png").is_file()
