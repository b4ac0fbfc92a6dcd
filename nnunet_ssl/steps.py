"""Run a sequence of steps, each once: a finished step is skipped when the sequence is run again.

A step is a command as a user would type it, or a Python function. Commands write to a log of their own; the
terminal shows one line of progress.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from nnunet_ssl.errors import DataError, NNUNetSSLError
from nnunet_ssl.json_files import read_json, write_json_atomically

_POLL_SECONDS = 0.5
_TAIL_BYTES = 8192
_TAIL_LINES = 20
# What a long-running command says about how far it is; anything else is shown as it comes.
_PROGRESS = re.compile(r"(Epoch \d+|[Pp]redicting \S+.*)$")


@dataclass(frozen=True)
class Command:
    """A step that runs a program.

    Attributes:
        title: what it does, in a few words.
        argv: program and arguments.
        env: environment variables for this step only; they are shown in front of the command.
        live: it speaks to the terminal itself instead of writing to a log of ours, and ends what it started.
    """

    title: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    live: bool = False

    @property
    def text(self) -> str:
        """The step as one types it into a shell."""
        return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in self.env.items()), shlex.join(self.argv)])


@dataclass(frozen=True)
class Action:
    """A step that calls a function.

    Attributes:
        title: what it does, in a few words.
        text: what its result depends on, shown like a command.
        function: called without arguments.
    """

    title: str
    text: str
    function: Callable[[], None]


Step = Command | Action


class StepFailedError(NNUNetSSLError):
    """A command ended with an error; the message holds the end of its log."""


def run_steps(
    steps: Sequence[Step], folder: Path, env: Mapping[str, str], keep_open: Sequence[int] = ()
) -> list[float]:
    """Run the steps that are not done yet, and remember in ``folder`` which are.

    A step counts as done if it, and every step before it, was run here with the same text.

    Args:
        steps: what to run, in order.
        folder: gets ``logs`` and ``stamps``.
        env: environment variables of all commands, added to our own.
        keep_open: file descriptors that commands inherit, such as that of a lock; Windows has no such thing.

    Returns:
        Seconds that each step took, when it was run.

    Raises:
        StepFailedError: a command failed.
        DataError: a program is not installed.
    """
    start = time.monotonic()
    seconds = []
    history = ""
    for number, step in enumerate(steps, 1):
        history = hashlib.sha256(f"{history}\n{step.text}".encode()).hexdigest()
        stamp = folder / "stamps" / f"{number:02d}.json"
        print(f"[{number}/{len(steps)}] {step.title}\n    $ {step.text}", flush=True)
        took = _finished(stamp, history)
        if took is None:
            log = _log_file(folder, number, step)
            took = _run_step(step, f"[{number}/{len(steps)}]", log, env, start, keep_open)
            stamp.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomically(stamp, {"key": history, "step": step.text, "seconds": took})
            print(f"    {took:.0f} s", flush=True)
        else:
            print(f"    done before, in {took:.0f} s", flush=True)
        seconds.append(took)
    return seconds


def find_program(name: str) -> str:
    """Path of a program: beside this Python first, so that an environment need not be activated.

    Raises:
        DataError: it is installed nowhere.
    """
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        raise DataError(
            f"The command {name} was not found. Install nnunet-ssl into this environment with pip."
        )
    return path


def _finished(stamp: Path, key: str) -> float | None:
    """Seconds that the step took, if it was done with this key."""
    if not stamp.is_file():
        return None
    content = read_json(stamp)
    return float(content["seconds"]) if content.get("key") == key else None


def _run_step(
    step: Step, number: str, log: Path, env: Mapping[str, str], start: float, keep_open: Sequence[int]
) -> float:
    began = time.monotonic()
    if isinstance(step, Action):
        step.function()
    else:
        _run_command(step, number, log, env, start, keep_open)
    return time.monotonic() - began


def _run_command(
    step: Command, number: str, log: Path, env: Mapping[str, str], start: float, keep_open: Sequence[int]
) -> None:
    """Run a program: its output in ``log`` and a line of progress in the terminal, or all in the terminal."""
    program = find_program(step.argv[0])
    # Python buffers what it writes into a file: without this the progress would come in lumps
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **env, **step.env}
    with _output(step, log) as output, _signals_raise():
        process = subprocess.Popen(
            [program, *step.argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            pass_fds=keep_open,
            start_new_session=not step.live,  # a group of its own, which can be ended as a whole
        )
        try:
            while not _ended(process):
                if not step.live:
                    _show_progress(f"    {_clock(time.monotonic() - start)} {number} {_status(_tail(log))}")
        finally:  # Ctrl-C above all: leave no training behind
            _end(process, group=not step.live)
            if not step.live:
                _show_progress("")
    if process.returncode != 0:
        raise StepFailedError(_failure(step, log, process.returncode))


@contextlib.contextmanager
def _output(step: Command, log: Path) -> Iterator[BinaryIO | None]:
    """Where a command writes; ``None`` is where we do."""
    if step.live:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:  # what an earlier try said stays
        yield output


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Let ``kill``, and a terminal that is closed, end us by an exception, as Ctrl-C does."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # nohup ignores one of them, submitit has a handler of its own: both are left as they are
    ours = [number for number in known if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(process: subprocess.Popen[bytes], group: bool) -> None:
    """End a program if it still runs, and with its group its workers, which outlive a training."""
    if os.name == "nt" or not group:
        process.terminate()
    else:
        # Nobody may be left; macOS denies the signal where only dead ones are
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait a moment for the end of a process."""
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _failure(step: Command, log: Path, status: int) -> str:
    if step.live:  # it has said why
        return (
            f"this command failed with exit status {status}:\n  {step.text}\nRun the same again to continue."
        )
    tail = "\n".join(f"  | {line}" for line in _tail(log)[-_TAIL_LINES:])
    return (
        f"this command failed with exit status {status}:\n  {step.text}\nThe end of its log, {log}:\n{tail}\n"
        "Run the same again to continue from this step."
    )


def _log_file(folder: Path, number: int, step: Step) -> Path:
    name = re.sub(r"[^a-z0-9]+", "_", step.title.lower()).strip("_")
    return folder / "logs" / f"{number:02d}_{name}.log"


def _tail(log: Path) -> list[str]:
    """Last lines of a log, without empty ones; what a progress bar has overwritten is split off."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def _status(lines: Sequence[str]) -> str:
    """The last line that tells how far the command is, else the last line."""
    for line in reversed(lines):
        match = _PROGRESS.search(line)
        if match:
            return match[1]
    return lines[-1] if lines else "starting"


def _show_progress(line: str) -> None:
    """Overwrite the terminal's last line; in a file there is nothing to overwrite, so nothing is written."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}", end="" if line else "\r", flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02d}:{rest:02d}"
