"""What several unit tests share."""

import pytest


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """An empty nnUNet_raw; nnUNet_preprocessed is there, nnUNet_results is not set."""
    for name in ("raw", "preprocessed"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnUNet_results", raising=False)
    return tmp_path / "raw"


@pytest.fixture
def download(tmp_path):
    """Where a test builds a download; it does not exist yet."""
    return tmp_path / "download"
