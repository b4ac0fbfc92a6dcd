"""The runner of the demo with commands that take no time: order, resume, failure; and what it shows."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.commands import demo
from nnunet_ssl.demo import run as runner
from nnunet_ssl.demo.pictures import Column, draw_overlays, worst_median_best
from nnunet_ssl.demo.run import Action, Command, StepFailedError, find_program, run_steps
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


def python(title: str, code: str, **env: str) -> Command:
    return Command(title, (sys.executable, "-c", code), env)


def append(file: Path, text: str) -> Command:
    return python(f"Append {text}", f"open({str(file)!r}, 'a').write({text!r})")


def test_steps_run_in_order_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, called = tmp_path / "file", []
    steps = [Action("Call", "# a function", lambda: called.append(1)), append(file, "a"), append(file, "b")]
    first = run_steps(steps, tmp_path, {})
    assert (file.read_text(), called) == ("ab", [1])
    assert "[2/3] Append a" in capsys.readouterr().out
    assert run_steps(steps, tmp_path, {}) == first
    assert (file.read_text(), called) == ("ab", [1])
    assert capsys.readouterr().out.count("done before") == 3


def test_a_changed_step_and_all_after_it_run_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    run_steps([append(file, "a"), append(file, "b"), append(file, "c")], tmp_path, {})
    run_steps([append(file, "a"), append(file, "x"), append(file, "c")], tmp_path, {})
    assert file.read_text() == "abcxc"


def test_a_failed_step_says_which_and_why_and_is_tried_again(tmp_path: Path) -> None:
    file, flag = tmp_path / "file", tmp_path / "flag"
    picky = python("Picky", f"import os; print('loading'); assert os.path.exists({str(flag)!r}), 'no flag'")
    steps = [append(file, "a"), picky, append(file, "b")]
    with pytest.raises(StepFailedError) as caught:
        run_steps(steps, tmp_path, {})
    message = str(caught.value)
    assert "exit status 1" in message and "AssertionError: no flag" in message and "loading" in message
    assert picky.text in message and str(tmp_path / "logs" / "02_picky.log") in message
    assert file.read_text() == "a"
    flag.touch()
    run_steps(steps, tmp_path, {})
    assert file.read_text() == "ab"


def test_environment_of_all_and_of_one(tmp_path: Path) -> None:
    code = "import os; print(os.environ['FOR_ALL'], os.environ.get('FOR_ONE'))"
    step = python("Show", code, FOR_ONE="1 2")
    assert step.text.startswith("FOR_ONE='1 2' ")
    run_steps([step, python("Show again", code)], tmp_path, {"FOR_ALL": "x"})
    logs = [f.read_text().strip() for f in sorted((tmp_path / "logs").iterdir())]
    assert logs == ["x 1 2", "x None"]


def test_a_terminal_sees_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(runner, "_show_progress", shown.append)
    code = "import time; print('2026-01-01 10:00: Epoch 7'); print('train_loss -0.5'); time.sleep(0.3)"
    run_steps([python("Train", code)], tmp_path, {})
    assert any(line.endswith("[1/1] Epoch 7") for line in shown)
    assert shown[-1] == ""


def test_progress_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runner._show_progress("not a terminal")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    runner._show_progress("x" * 50)
    assert capsys.readouterr().out == "\r" + "x" * 19


def test_an_interrupted_step_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(line: str) -> None:
        if line:
            raise KeyboardInterrupt

    file = tmp_path / "file"
    monkeypatch.setattr(runner, "_show_progress", interrupt)
    slow = python("Slow", f"import time; time.sleep(60); open({str(file)!r}, 'w')")
    with pytest.raises(KeyboardInterrupt):
        run_steps([slow], tmp_path, {})
    assert not (tmp_path / "stamps").exists() and not file.exists()


@pytest.mark.skipif(os.name == "nt", reason="there, kill leaves no time for anything")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_killed_runner_leaves_no_process_either(tmp_path: Path, name: str) -> None:
    reading, writing = os.pipe()
    slow = (
        "import os, sys, time; pipe = int(sys.argv[1]); os.fork(); os.write(pipe, b'started\\n'); "
        "time.sleep(30); os.write(pipe, b'survived')"
    )
    code = (
        "import signal, sys; from pathlib import Path; from nnunet_ssl.demo.run import Command, run_steps; "
        f"signal.signal(signal.{name}, signal.SIG_DFL); "  # nohup's is not
        "step = Command('Slow', (sys.executable, '-c', *sys.argv[3:], sys.argv[2])); "
        "run_steps([step], Path(sys.argv[1]), {}, [int(sys.argv[2])])"
    )
    argv = [sys.executable, "-c", code, str(tmp_path), str(writing), slow]
    env = {**os.environ, "PYTHONPATH": str(Path(runner.__file__).parents[2])}
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=env, pass_fds=[writing]) as killed:
        os.close(writing)
        with os.fdopen(reading) as pipe:  # its end comes when all that may write into it are gone
            assert [pipe.readline(), pipe.readline()] == ["started\n", "started\n"]  # command and worker
            killed.send_signal(getattr(signal, name))
            assert pipe.read() == ""
    assert killed.returncode == 128 + getattr(signal, name)


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_handlers_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(runner, "_ended", lambda process: seen.append(signal.getsignal(signal.SIGHUP)) or 1)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with pytest.raises(StepFailedError):  # ended at once
            run_steps([python("Slow", "import time; time.sleep(30)")], tmp_path, {})
        assert [*seen, signal.getsignal(signal.SIGHUP)] == [signal.SIG_IGN] * 2
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_programs_are_found_beside_this_python() -> None:
    assert Path(find_program("python")).parent == Path(sys.executable).parent
    with pytest.raises(DataError, match="nnUNetv2_nonsense was not found"):
        find_program("nnUNetv2_nonsense")


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
    from nnunet_ssl.demo import run as run_module

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
