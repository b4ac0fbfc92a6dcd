"""Public datasets for the tests that need some: NNUNET_SSL_TEST_DATA names their folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("NNUNET_SSL_TEST_DATA", "not-set"))
RAW, SAMPLES = FOLDER / "nnUNet_raw", FOLDER / "source_samples"


def needs_data(*folders: Path) -> Callable[[Any], Any]:
    """Mark a test that needs all of these folders."""
    missing = ", ".join(folder.name for folder in folders if not folder.is_dir())
    reason = f"needs {missing} in the folder that NNUNET_SSL_TEST_DATA names"
    skip = pytest.mark.skipif(bool(missing), reason=reason)
    return lambda test: pytest.mark.real_data(skip(test))
