"""Preprocess the unlabelled scans of imagesUn with the plans of the labelled data.

Trainers do the same when they start; this command does it beforehand. Only what is new or stale is done.
"""

from __future__ import annotations

import argparse

HELP = "preprocess the unlabelled scans in imagesUn"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of nnUNetv2_preprocess."""
    parser.add_argument("-d", required=True, metavar="ID", help="dataset id or name")
    parser.add_argument(
        "-c", nargs="+", default=["3d_fullres"], metavar="CONFIG", help="configurations (3d_fullres)"
    )
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans (nnUNetPlans)")
    parser.add_argument("-np", type=int, default=None, metavar="N", help="processes (nnU-Net's default)")


def run(args: argparse.Namespace) -> None:
    """Preprocess every configuration asked for."""
    from nnunetv2.configuration import default_num_processes

    from nnunet_ssl.conversion.plans import read_plans, resolve_configuration
    from nnunet_ssl.data.dataset_json import find_dataset, read_dataset_json, root_folder
    from nnunet_ssl.data.layout import IMAGES_UNLABELED
    from nnunet_ssl.data.preprocessing import Recipe, preprocess_unlabeled, unlabeled_folder
    from nnunet_ssl.errors import DataError

    name = find_dataset(args.d)
    raw, preprocessed = root_folder("raw") / name, root_folder("preprocessed") / name
    plans, images = read_plans(preprocessed, args.p), raw / IMAGES_UNLABELED
    for configuration in args.c:
        identifier = resolve_configuration(plans, configuration)["data_identifier"]
        folder = unlabeled_folder(preprocessed, identifier)
        recipe = Recipe(plans, configuration, read_dataset_json(preprocessed), folder)
        here = images if images.is_dir() else None
        ready = preprocess_unlabeled(recipe, here, args.np or default_num_processes)
        if not ready:
            raise DataError(f"No scans in {images}. Put unlabelled scans (CASE_0000...) there.")
        print(f"{configuration}: {len(ready)} unlabelled scan(s) ready in {folder}")
