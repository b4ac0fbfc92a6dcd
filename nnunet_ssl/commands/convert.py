"""Make a raw nnU-Net dataset from a public download, or from any folder of scans.

    nnUNetv2_ssl convert --list                                  the public datasets that are known
    nnUNetv2_ssl convert busi --about                            where it comes from, what is done
    nnUNetv2_ssl convert busi -i DOWNLOAD -o 515                 writes nnUNet_raw/Dataset515_BUSI
    nnUNetv2_ssl convert folder -i SCANS -o Dataset600_Liver     scans without masks go to imagesUn
    nnUNetv2_ssl convert folder -i SCANS --into 600              more scans, for the imagesUn of a dataset
    nnUNetv2_ssl convert folder -i SCANS --predict MODEL -o IN   scans as nnUNetv2_predict -i IN takes them

Files that are already right are linked, so keep the download, or add --copy. An interrupted conversion goes
on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ssl.errors import ConfigError

if TYPE_CHECKING:
    from nnunet_ssl.conversion.dataset_plan import DatasetPlan
    from nnunet_ssl.conversion.folder_options import FolderOptions

HELP = "make a dataset from a public download or from any folder of scans"

_FOLDER_ONLY = (
    "images",
    "modality",
    "masks",
    "mask_per_label",
    "labels",
    "allow_missing_labels",
    "channels",
    "image_key",
    "label_key",
    "axes",
    "spacing",
    "gray",
    "into",
    "predict",
)
_RECIPE_ONLY = ("variant", "test_as_unlabeled")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``nnUNetv2_ssl convert``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "what", nargs="?", metavar="NAME|folder", help="a public dataset (see --list), or 'folder'"
    )
    parser.add_argument(
        "-i", type=Path, metavar="FOLDER", help="the unpacked download, or the folder of scans"
    )
    parser.add_argument(
        "-o", metavar="DATASET", help="number, or full name, of the new dataset; with --predict a folder"
    )
    parser.add_argument("--list", action="store_true", help="print the public datasets and stop")
    parser.add_argument(
        "--about", action="store_true", help="print what is known of a public dataset and stop"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and stop")
    parser.add_argument(
        "--copy", action="store_true", help="copy files that are right, rather than link them"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset that this command has made"
    )
    parser.add_argument("--skip-errors", action="store_true", help="leave out cases that cannot be converted")
    parser.add_argument("-np", type=int, metavar="N", help="worker processes (default: nnU-Net's)")
    parser.add_argument(
        "--labeled",
        metavar="SPLIT|N|FRACTION",
        help="also write splits_final.json: a paper's split by its name, or a number or share of labelled "
        "cases as nnUNetv2_ssl split takes it",
    )
    _add_recipe_arguments(parser.add_argument_group("public datasets"))
    _add_folder_arguments(parser.add_argument_group("convert folder"))


def run(args: argparse.Namespace) -> None:
    """List, describe, plan or write."""
    from nnunet_ssl.conversion import recipes
    from nnunet_ssl.conversion.labeled import check_labeled

    if args.list:
        _print_list()
        return
    if args.what is None:
        raise ConfigError(
            "Expected the name of a public dataset, or 'folder'. See nnUNetv2_ssl convert --list."
        )
    _check_arguments(args)
    if args.about:
        print((recipes.load_recipe(args.what).__doc__ or "").strip())
        return
    if args.i is None:
        raise ConfigError(
            f"convert {args.what}: expected -i, the folder that holds the download or the scans."
        )
    if args.into is not None or args.predict is not None:
        _convert_bare(args)
        return
    if args.o is None:
        raise ConfigError(
            "Expected -o, the number or the full name of the new dataset, such as Dataset501_Heart."
        )
    plan = _plan_folder(args) if args.what == "folder" else _plan_recipe(args)
    if args.labeled is not None:
        check_labeled(plan, args.labeled)
    if not args.dry_run:
        _write(plan, args)


def _add_recipe_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--variant", metavar="NAME", help="what to make of the download (see --list)")
    group.add_argument(
        "--test-as-unlabeled", action="store_true", help="test scans without labels go to imagesUn"
    )


def _add_folder_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--into", metavar="ID", help="add the scans to imagesUn of this dataset")
    group.add_argument(
        "--predict",
        metavar="MODEL",
        help="write the scans to the folder -o as nnUNetv2_predict takes them; MODEL: folder of the trained "
        "model, or its dataset",
    )
    group.add_argument("--images", metavar="PATTERN", help="files that are scans, such as '*/t1.nii.gz'")
    group.add_argument(
        "--modality", metavar="NAME", help="DICOM series to take, such as CT, where several lie"
    )
    group.add_argument(
        "--masks", metavar="FOLDER|PATTERN", help="folder of the masks, or files that are masks"
    )
    group.add_argument(
        "--mask-per-label",
        action="store_true",
        help="each mask file holds one label and is called after it; those named with --labels are taken",
    )
    group.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="NAME[=VALUE]",
        help="names of the labels, in the order of their values; structures to take of RTSTRUCT, DICOM-SEG, "
        "or with a mask file of their own",
    )
    group.add_argument(
        "--allow-missing-labels",
        action="store_true",
        help="a structure that nobody outlined in a scan is not there: it becomes background",
    )
    group.add_argument(
        "--channels", nargs="+", default=[], metavar="NAME", help="names of the channels; CT matters"
    )
    group.add_argument("--image-key", metavar="KEY", help="array of the scan in .h5 and .npz files")
    group.add_argument("--label-key", metavar="KEY", help="array of the label in them")
    group.add_argument("--axes", choices=("xyz", "zyx"), help="order of the axes in them (default: xyz)")
    group.add_argument(
        "--spacing", nargs=3, type=float, metavar=("X", "Y", "Z"), help="voxel size in them, mm (default: 1)"
    )
    group.add_argument("--gray", action="store_true", help="make pictures with colours gray")


def _check_arguments(args: argparse.Namespace) -> None:
    foreign = _RECIPE_ONLY if args.what == "folder" else _FOLDER_ONLY
    given = [name for name in foreign if getattr(args, name)]
    if given:
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        what = "public datasets" if args.what == "folder" else "convert folder"
        raise ConfigError(f"convert {args.what}: {shown} is for {what} only.")
    if args.what == "folder" and args.about:
        raise ConfigError(
            "--about is for public datasets. For convert folder see --help and docs/datasets.md."
        )


def _print_list() -> None:
    from nnunet_ssl.conversion.recipes import load_recipe, recipe_names, variants_of
    from nnunet_ssl.tables import format_table

    rows = []
    for name in recipe_names():
        module = load_recipe(name)
        variants = ", ".join(variants_of(module))
        rows.append((name, module.RECIPE.title, variants if variants != "default" else None))
    print(format_table(rows, ["name", "what", "variants"]))


def _processes(args: argparse.Namespace) -> int:
    from nnunetv2.configuration import default_num_processes

    return int(default_num_processes if args.np is None else args.np)


def _plan_recipe(args: argparse.Namespace) -> DatasetPlan:
    from nnunet_ssl.conversion.dataset_plan import target_name
    from nnunet_ssl.conversion.recipes import choose_variant, load_recipe, plan_recipe

    recipe = choose_variant(load_recipe(args.what), args.variant)[1]
    name = target_name(args.o, recipe.dataset)
    plan = plan_recipe(args.what, args.i, name, args.variant, args.test_as_unlabeled)
    _print_plan(plan, args.dry_run)
    return plan


def _options(args: argparse.Namespace) -> FolderOptions:
    from nnunet_ssl.conversion.folder_options import FolderOptions

    return FolderOptions(
        images=args.images,
        modality=args.modality,
        masks=args.masks,
        mask_per_label=args.mask_per_label,
        labels=tuple(args.labels),
        channels=tuple(args.channels),
        image_key=args.image_key,
        label_key=args.label_key,
        axes=args.axes or "xyz",
        spacing=tuple(args.spacing or ()),
        gray=args.gray,
        skip_orphans=args.skip_errors,
        allow_missing=args.allow_missing_labels,
    )


def _plan_folder(args: argparse.Namespace) -> DatasetPlan:
    from nnunet_ssl.conversion.dataset_plan import target_name
    from nnunet_ssl.conversion.folder import plan_folder

    name = target_name(args.o, "Folder")
    planned = plan_folder(args.i, name, _options(args), _processes(args))
    _print_plan(planned.plan, args.dry_run)
    print(f"Channels: {', '.join(planned.plan.channels)}. Labels: {_show(planned.plan.labels)}.")
    for note in planned.notes:
        print(note)
    return planned.plan


def _print_plan(plan: DatasetPlan, every_case: bool) -> None:
    from nnunet_ssl.tables import format_table

    if every_case:
        print(format_table(plan.case_rows(), ["case", "to", "scan", "mask", "how"]) + "\n")
    print(format_table(plan.count_rows(), ["cases", "folder", "number"]))


def _show(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items())


def _convert_bare(args: argparse.Namespace) -> None:
    from nnunet_ssl.conversion.into import add_scans, plan_into, plan_predict
    from nnunet_ssl.tables import format_table

    if args.predict is None:
        plan = plan_into(args.i, args.into, _options(args))
    elif args.into is not None or args.o is None:
        raise ConfigError("--predict MODEL: expected -o with a folder for the scans, and no --into.")
    else:
        plan = plan_predict(args.i, args.predict, Path(args.o), _options(args))
    print(format_table(plan.rows(), ["case", "what"]))
    for note in plan.notes:
        print(note)
    if not args.dry_run:
        added = add_scans(plan, _processes(args), args.copy, args.skip_errors)
        print(f"Added {added} scans to {plan.images}.")


def _write(plan: DatasetPlan, args: argparse.Namespace) -> None:
    from nnunet_ssl.conversion.writer import write_dataset

    folder, how = write_dataset(plan, _processes(args), args.copy, args.overwrite, args.skip_errors)
    if how:
        print(f"Wrote {folder} ({', '.join(f'{n} files {way}' for way, n in sorted(how.items()))}).")
    else:
        print(f"{folder} already holds this.")
    if plan.splits:
        print(f"Splits of papers: {', '.join(split.name for split in plan.splits)} (in {folder / 'splits'}).")
    if args.labeled is not None:
        from nnunet_ssl.conversion.labeled import write_labeled

        print(f"Wrote {write_labeled(plan, args.labeled)}.")
