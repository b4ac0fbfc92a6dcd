"""Show what is installed and whether nnU-Net finds our trainers, and print the line that sees to it.

Nothing needs to be set: a start-up file does it. Those who prefer to set ``nnUNet_extTrainer`` themselves run

    eval "$(nnUNetv2_ssl env)"

The line goes to standard output, the status to standard error, so that the shell reads the line alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from nnunet_ssl import __version__, _startup
from nnunet_ssl.errors import NNUNetSSLError

HELP = "show versions and paths, and the line that makes nnU-Net find our trainers"

NNUNET_PATHS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")

_SHELLS: dict[str, Callable[[str], str]] = {
    "bash": lambda value: f"export {_startup.VARIABLE}={shlex.quote(value)}",
    "fish": lambda value: f"set -gx {_startup.VARIABLE} {_fish_quote(value)}",
    "powershell": lambda value: f"$env:{_startup.VARIABLE} = {_powershell_quote(value)}",
    "cmd": lambda value: f'set "{_startup.VARIABLE}={value}"',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``nnUNetv2_ssl env``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--shell", choices=tuple(_SHELLS), default="bash", help="syntax of the line (default: bash)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the line and the status.

    Raises:
        NNUNetSSLError: the installation lacks its folder of trainers.
    """
    for name, value in status():
        print(f"{name:<20} {value}", file=sys.stderr)
    print(export_line(args.shell))


def export_line(shell: str) -> str:
    """The line that sets ``nnUNet_extTrainer`` in ``shell``; folders that are set already come first."""
    folder = _startup.trainer_folder()
    if folder is None:
        raise NNUNetSSLError(
            f"Expected the trainers beside {os.path.dirname(_startup.__file__)}, found none. "
            "Install the package again: pip install --force-reinstall --no-deps nnunet-ssl"
        )
    return _SHELLS[shell](_startup.appended(os.environ.get(_startup.VARIABLE), folder))


def status() -> list[tuple[str, str]]:
    """Name and value of everything worth knowing when trainers are not found."""
    rows = [("nnunet_ssl", __version__)]
    rows += [(name, _version(name)) for name in ("nnunetv2", "torch")]
    rows += [("python", platform.python_version()), ("trainers found", _autodiscovery())]
    rows += [(name, os.environ.get(name) or "(not set)") for name in (*NNUNET_PATHS, _startup.VARIABLE)]
    return rows


def _version(distribution: str) -> str:
    try:
        return version(distribution)  # importing torch would take seconds
    except PackageNotFoundError:
        return "(not installed)"


def _autodiscovery() -> str:
    folder = _startup.trainer_folder()
    if folder is not None and _startup.contains(os.environ.get(_startup.VARIABLE), folder):
        return "yes"
    if _startup.opted_out():
        return f"no: {_startup.OPT_OUT} is set"
    return "no: the start-up file nnunet_ssl.pth did not run; install with pip, or set the variable as below"


def _fish_quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _powershell_quote(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
