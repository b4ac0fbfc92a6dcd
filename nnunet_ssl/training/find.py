"""Find a trainer by its name, as nnU-Net's commands do."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ssl.errors import ConfigError


def find_trainer(name: str) -> Any:
    """Class of the trainer, ours or another one that nnU-Net finds.

    Raises:
        ConfigError: there is none.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells where it looks
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ConfigError(
            f"nnU-Net finds no trainer {name}. Correct the name: README.md lists ours, 'nnUNetv2_ssl env' "
            "says whether nnU-Net finds them."
        ) from error
