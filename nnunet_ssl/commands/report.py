"""Say what a benchmark has shown: one HTML page that holds everything, and the same as Markdown.

The answer comes first, gain or no gain; then the numbers, worst and median cases, curves of the trainings,
and what is needed to repeat it. A benchmark that is not complete is reported as far as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ssl.errors import DataError

HELP = "what a benchmark has shown, as one HTML page and as Markdown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``nnUNetv2_ssl report``."""
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="folder of the benchmark")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where the report goes")


def run(args: argparse.Namespace) -> None:
    """Write the report and print its answers.

    Raises:
        DataError: there is no benchmark, nothing to report yet, or the output cannot be written.
    """
    from nnunet_ssl.report.page import make_page, write_page
    from nnunet_ssl.report.results import read_results

    page = make_page(read_results(args.i))
    try:
        files = write_page(page, args.o)
    except OSError as error:
        raise DataError(f"{args.o} cannot be written ({error.strerror}). Name another folder.") from error
    print("\n".join([*page.summary, *map(str, files)]))
