"""The demo from end to end with a budget of a few updates: each command works, and is skipped next time."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from nnunet_ssl.demo.sequence import TRAINER
from nnunet_ssl.steps import find_program

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def run_demo(folder: Path) -> str:
    command = [find_program("nnUNetv2_ssl"), "demo", "-o", str(folder), "--fast", "-device", "cpu"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_fast_demo(tmp_path: Path) -> None:
    first = run_demo(tmp_path)
    assert f"{TRAINER}/labeled_all/seed_0" in first and "Too few test cases (2) to tell" in first
    assert (tmp_path / "report" / "report.html").is_file()
    for label in ("vessel", "organ"):  # the table, by method and label
        assert len(re.findall(rf"VerSemi +{label} ", first)) == 1
    again = run_demo(tmp_path)
    assert again.count("done before") == 5 and again.count("VerSemi") >= 2
