"""``nnUNetv2_ssl``: one command with subcommands, each in a module of ``nnunet_ssl.commands``.

A command module has ``HELP``, ``add_arguments(parser)`` and ``run(args)``; it imports nnU-Net and torch
inside ``run`` only, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from nnunet_ssl import __version__
from nnunet_ssl.errors import NNUNetSSLError

COMMANDS = (
    "split",
    "preprocess",
    "embed-prompts",
    "configure",
    "merge",
    "convert",
    "evaluate",
    "export",
    "doctor",
    "benchmark",
    "report",
    "demo",
    "env",
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``nnUNetv2_ssl`` with every subcommand."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ssl", description="Semi-supervised nnU-Net: data, plans, results."
    )
    parser.add_argument("--version", action="version", version=f"nnunet-ssl {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"nnunet_ssl.commands.{name.replace('-', '_')}")
        sub = subparsers.add_parser(name, help=module.HELP, description=module.__doc__ or module.HELP)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; errors of the user are printed without a traceback, exit status 2."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except NNUNetSSLError as error:
        print(f"nnUNetv2_ssl {args.command}: {error}", file=sys.stderr)
        return 2
    return 0
