"""Examine a dataset before training: geometry, labels, intensities, duplicates, splits, memory and disk.

Reads every scan of imagesTr, imagesUn and imagesTs once, labels too, and prints what it finds with what to do
about it, errors first. Exit status: 0 if training may start, 1 if there is an error, 2 if it could not look.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_ssl.doctor.examine import Examination

HELP = "examine a dataset: is it fit for training?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``nnUNetv2_ssl doctor``."""
    parser.add_argument("-d", required=True, metavar="ID", help="dataset number or name")
    parser.add_argument("-c", metavar="CONFIG", help="configuration (default: 3d_fullres if planned)")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans (default: %(default)s)")
    parser.add_argument("-f", metavar="FOLD", help="fold, or 'all' (default: every fold of the split)")
    parser.add_argument(
        "-np", type=int, metavar="N", help="processes that read (default: nnU-Net's, at most one per core)"
    )
    parser.add_argument(
        "-o", type=Path, metavar="FOLDER", help="write doctor.json and the picture of intensities here"
    )
    parser.add_argument(
        "--group-regex", metavar="RE", help="names the patient in a case identifier, as in nnUNetv2_ssl split"
    )
    parser.add_argument(
        "--accept",
        nargs="+",
        default=[],
        metavar="CHECK",
        help="errors of these checks are only warnings: you have looked, and they are right here",
    )


def run(args: argparse.Namespace) -> None:
    """Print the table and the verdict.

    Raises:
        SystemExit: with status 1 if there is an error.
    """
    import os

    from nnunetv2.configuration import default_num_processes

    from nnunet_ssl.data.dataset_json import dataset_folder
    from nnunet_ssl.doctor import report
    from nnunet_ssl.doctor.examine import Request, examine

    request = Request(
        dataset=dataset_folder("raw", args.d),
        configuration=args.c,
        plans=args.p,
        fold=args.f,
        group_regex=args.group_regex,
        accepted=args.accept,
        processes=args.np or min(default_num_processes, os.cpu_count() or 1),
    )
    result = examine(request)
    print(report.overview(result.study, result.seconds))
    if result.findings:
        print()
        print(report.format_findings(result.findings, shutil.get_terminal_size((120, 24)).columns))
        print()
    print(report.verdict(result.findings))
    if args.o is not None:
        for file in _write(args.o, result):
            print(f"Wrote {file}")
    if not report.may_start(result.findings):
        raise SystemExit(1)


def _write(folder: Path, result: Examination) -> list[Path]:
    from nnunet_ssl.doctor import report
    from nnunet_ssl.doctor.picture import draw_intensities
    from nnunet_ssl.errors import DataError
    from nnunet_ssl.json_files import write_json_atomically

    record, picture = folder / "doctor.json", folder / "doctor_intensities.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomically(record, report.to_json(result.study, result.findings, result.seconds))
        return [record, picture] if draw_intensities(result.study, picture) else [record]
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror}). Name another folder with -o."
        ) from error
