"""The start-up file: nnU-Net finds our trainers, the user's own folders come first, Python always starts."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ssl import _startup
from nnunet_ssl.commands import env
from nnunet_ssl.errors import NNUNetSSLError

ROOT = Path(__file__).parents[2]
STARTUP_LINE = (ROOT / "nnunet_ssl.pth").read_text()
SEP = os.pathsep


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.setenv(_startup.VARIABLE, "to be restored afterwards")
    monkeypatch.delenv(_startup.VARIABLE)
    monkeypatch.delenv(_startup.OPT_OUT, raising=False)


@pytest.fixture
def folder():
    folder = _startup.trainer_folder()
    assert folder is not None
    return folder


def test_folder_holds_the_trainers(folder):
    assert Path(folder).is_absolute()
    assert (Path(folder) / "nnUNetTrainerVerSemi.py").is_file()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "/ours"),
        ("", "/ours"),
        ("/user", f"/user{SEP}/ours"),
        (f"/b{SEP}/a", f"/b{SEP}/a{SEP}/ours"),
        ("/ours", "/ours"),
        (f"/ours{SEP}/user", f"/ours{SEP}/user"),
        ("/ours/", "/ours/"),
        ("/other/../ours", "/other/../ours"),
        ("/ours_too", f"/ours_too{SEP}/ours"),
    ],
)
def test_appended(value, expected):
    assert _startup.appended(value, "/ours") == expected


def test_relative_entry_of_the_current_folder_is_not_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not _startup.contains(SEP, str(tmp_path))
    assert _startup.contains(".", str(tmp_path))


def test_activate_sets_once(folder):
    _startup.activate()
    _startup.activate()
    assert os.environ[_startup.VARIABLE] == folder


def test_activate_keeps_the_users_value_first(folder, monkeypatch):
    monkeypatch.setenv(_startup.VARIABLE, f"/user one{SEP}/two")
    _startup.activate()
    assert os.environ[_startup.VARIABLE].split(SEP) == ["/user one", "/two", folder]


def test_opt_out(monkeypatch):
    monkeypatch.setenv(_startup.OPT_OUT, "1")
    _startup.activate()
    assert _startup.VARIABLE not in os.environ


@pytest.mark.parametrize("value", ["", "0"])
def test_opt_out_needs_a_yes(value, folder, monkeypatch):
    monkeypatch.setenv(_startup.OPT_OUT, value)
    _startup.activate()
    assert os.environ[_startup.VARIABLE] == folder


def test_nothing_is_set_without_the_trainers(tmp_path, monkeypatch):
    monkeypatch.setattr(_startup, "__file__", str(tmp_path / "nnunet_ssl" / "_startup.py"))
    (tmp_path / "trainers").mkdir()  # somebody else's
    _startup.activate()
    assert _startup.VARIABLE not in os.environ


def test_startup_line_is_one_that_python_runs(folder):
    assert STARTUP_LINE.startswith("import ")
    assert STARTUP_LINE.count("\n") == 1
    exec(STARTUP_LINE)
    assert os.environ[_startup.VARIABLE] == folder


@pytest.mark.parametrize(
    "broken", ["raise RuntimeError", "def activate(: syntax error", "import no_such_module", None]
)
def test_startup_line_is_silent_on_error(broken, tmp_path):
    if broken is not None:
        (tmp_path / "nnunet_ssl").mkdir()
        (tmp_path / "nnunet_ssl" / "__init__.py").touch()
        (tmp_path / "nnunet_ssl" / "_startup.py").write_text(broken)
    # -S: without site-packages, so that no installed nnunet_ssl steps in
    done = _python("-S", "-c", STARTUP_LINE + "\nprint('started')", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "started", "")


def test_startup_imports_nothing_heavy():
    code = (
        "import os, sys; before = set(sys.modules)\n"  # site imports os before it runs start-up files
        f"{STARTUP_LINE}\n"
        "print(*sorted(set(sys.modules) - before), sep=',')"
    )
    done = _python("-S", "-c", code, cwd=ROOT)
    assert done.stdout.strip() == "nnunet_ssl,nnunet_ssl._startup"


def _python(*args, cwd):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("bash", "export nnUNet_extTrainer='/it'\"'\"'s mine:FOLDER'"),
        ("fish", "set -gx nnUNet_extTrainer '/it\\'s mine:FOLDER'"),
        ("powershell", "$env:nnUNet_extTrainer = '/it''s mine:FOLDER'"),
        ("cmd", 'set "nnUNet_extTrainer=/it\'s mine:FOLDER"'),
    ],
)
def test_env_prints_the_line_of_each_shell(shell, expected, folder, monkeypatch):
    monkeypatch.setenv(_startup.VARIABLE, "/it's mine")
    monkeypatch.setattr(os, "pathsep", ":")
    assert env.export_line(shell).replace(folder, "FOLDER") == expected


def test_env_line_is_understood_by_the_shell(folder, monkeypatch):
    monkeypatch.setenv(_startup.VARIABLE, "/it's $mine")
    line = env.export_line("bash")
    done = subprocess.run(
        ["sh", "-c", f'{line}; {line}; printf %s "$nnUNet_extTrainer"'], capture_output=True
    )
    assert done.stdout.decode() == f"/it's $mine:{folder}"


def test_env_writes_the_line_alone_to_standard_output(folder, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", "/data/raw")
    monkeypatch.delenv("nnUNet_results", raising=False)
    _startup.activate()
    parser = argparse.ArgumentParser()
    env.add_arguments(parser)
    env.run(parser.parse_args([]))
    out, err = capsys.readouterr()
    assert out == env.export_line("bash") + "\n"
    rows = dict(line.split(maxsplit=1) for line in err.replace("trainers found", "found").splitlines())
    assert rows["nnUNet_raw"] == "/data/raw"
    assert rows["nnUNet_results"] == "(not set)"
    assert rows["found"] == "yes"
    assert {"nnunet_ssl", "nnunetv2", "torch"} <= set(rows)


def test_env_says_why_trainers_are_not_found(monkeypatch):
    assert "nnunet_ssl.pth did not run" in dict(env.status())["trainers found"]
    monkeypatch.setenv(_startup.OPT_OUT, "1")
    assert dict(env.status())["trainers found"] == f"no: {_startup.OPT_OUT} is set"


def test_env_without_trainers_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(_startup, "__file__", str(tmp_path / "nnunet_ssl" / "_startup.py"))
    with pytest.raises(NNUNetSSLError, match="Install the package again"):
        env.export_line("bash")
