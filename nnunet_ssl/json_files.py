"""JSON files: whole or not at all, and readable by nnU-Net on every machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import DataError


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        DataError: the file is missing or is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"Expected the file {path}, which does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}). Correct it or make it anew.") from error


def write_json_atomically(path: Path, obj: Any) -> None:
    """Write JSON so that ``path`` holds either its old or all of its new content, also after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(obj, file, indent=4)  # ASCII: nnU-Net reads in the encoding of the machine
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
