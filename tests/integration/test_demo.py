"""The demo from end to end with a budget of a few updates: each command works, and is skipped next time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from nnunet_ssl.demo.sequence import TRAINERS
from nnunet_ssl.steps import find_program

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def run_demo(folder: Path) -> str:
    command = [find_program("nnUNetv2_ssl"), "demo", "-o", str(folder), "--fast", "-device", "cpu"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_fast_demo(tmp_path: Path) -> None:
    first = run_demo(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    for trainer in TRAINERS:
        assert trainer in first
        for task in ("Vessel", "Organ"):
            assert 0 <= results["trainers"][trainer][task]["Dice"] <= 1
    assert {f.name for f in (tmp_path / "pictures").iterdir()} == {"vessel.png", "organ.png"}
    assert run_demo(tmp_path).count("done before") == 13
