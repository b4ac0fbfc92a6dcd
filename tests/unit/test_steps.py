"""Steps that take no time: order, resume, failure, interruption; and what the terminal shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_ssl import steps as runner
from nnunet_ssl.errors import DataError
from nnunet_ssl.steps import Action, Command, StepFailedError, find_program, run_steps


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


def test_a_live_command_speaks_for_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    live = Command("Speak", (sys.executable, "-c", "print('spoken')"), live=True)
    run_steps([live], tmp_path, {})
    assert "spoken" in capfd.readouterr().out and not (tmp_path / "logs").exists()
    failing = Command("Fail", (sys.executable, "-c", "raise SystemExit('the cause')"), live=True)
    with pytest.raises(StepFailedError, match=r"exit status 1:\n.*\nRun the same again to continue\."):
        run_steps([failing], tmp_path, {})
    assert "the cause" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_live_command_may_end_what_it_started(tmp_path: Path) -> None:
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    code = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(ended)!r}).touch(), sys.exit(1)))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(60)"
    )
    step = f"Command('Wait', ({sys.executable!r}, '-c', {code!r}), live=True)"
    script = (
        "from pathlib import Path; from nnunet_ssl.steps import Command, run_steps; "
        f"run_steps([{step}], Path({str(tmp_path)!r}), {{}})"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    while not ready.exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM and ended.exists()


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
        "import signal, sys; from pathlib import Path; from nnunet_ssl.steps import Command, run_steps; "
        f"signal.signal(signal.{name}, signal.SIG_DFL); "  # nohup's is not
        "step = Command('Slow', (sys.executable, '-c', *sys.argv[3:], sys.argv[2])); "
        "run_steps([step], Path(sys.argv[1]), {}, [int(sys.argv[2])])"
    )
    argv = [sys.executable, "-c", code, str(tmp_path), str(writing), slow]
    env = {**os.environ, "PYTHONPATH": str(Path(runner.__file__).parents[1])}
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
