"""What a training leaves for the report: its curves, its options, and the warnings in its log."""

from __future__ import annotations

import re
from pathlib import Path

from nnunet_ssl.curve_names import COLLAPSED
from nnunet_ssl.json_files import read_json, write_json_atomically

CURVES = "curves.json"


def save_curves(model: Path, file: Path) -> None:
    """Take nnU-Net's log of every epoch, our loss terms included, out of the final checkpoint.

    Beside it what a reader of the results should know: the options of the training and its warnings.
    """
    import torch

    # mapped, not loaded: of a large file only the few numbers are read
    checkpoint = torch.load(model / "checkpoint_final.pth", map_location="cpu", weights_only=False, mmap=True)
    curves = {key: _plain(values) for key, values in checkpoint["logging"].items()}
    debug = model / "debug.json"
    device = read_json(debug).get("gpu_name") if debug.is_file() else None
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"curves": curves, "gpu": device, "epoch": checkpoint["current_epoch"]}
    config = model / "ssl_config.json"
    options = read_json(config)["options"] if config.is_file() else {}
    write_json_atomically(file, {**content, "options": options, "warnings": collapse_warnings(model)})


def _plain(values: object) -> object:
    """Numbers of NumPy and lists of them as JSON has them; NaN, which JSON lacks, as null."""
    import numpy as np

    if isinstance(values, (list, tuple, np.ndarray)):
        return [_plain(v) for v in values]
    number = float(values)  # type: ignore[arg-type]
    return number if np.isfinite(number) else None


def collapse_warnings(model: Path) -> list[str]:
    """What the pseudo-label monitor warned of, each with its epoch, from the training logs."""
    found: dict[str, None] = {}  # a training that went on from a checkpoint may repeat itself
    for log in sorted(model.glob("training_log_*.txt")):
        epoch = ""
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            began = re.search(r": Epoch (\d+) *$", line)
            epoch = began.group(1) if began else epoch
            if COLLAPSED in line:
                found[f"epoch {epoch}: {line.split(COLLAPSED, 1)[1].strip()}"] = None
    return list(found)
