"""Join several raw datasets into one with the union of their labels, for training on all of them at once.

Labels are numbered in the order given, images are linked, label files are written anew. Each dataset becomes
a task: its cases are annotated for its labels only. dataset.json lists the tasks.
"""

from __future__ import annotations

import argparse

HELP = "join raw datasets into one with several tasks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``nnUNetv2_ssl merge``."""
    parser.add_argument("-d", nargs="+", required=True, metavar="ID", help="numbers or names of the datasets")
    parser.add_argument("-o", type=int, required=True, metavar="ID", help="number of the new dataset")
    parser.add_argument(
        "-n", required=True, metavar="NAME", help="name of the new dataset, without DatasetXXX_"
    )
    parser.add_argument("--prefix-labels", action="store_true", help="call each label TASK_LABEL")
    parser.add_argument("--copy", action="store_true", help="copy the images rather than link them")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a merged dataset of that number and name"
    )


def run(args: argparse.Namespace) -> None:
    """Write the merged dataset and print its tasks."""
    from nnunet_ssl.conversion import merge
    from nnunet_ssl.conversion.merge_files import write_merge
    from nnunet_ssl.tables import format_table

    name = f"Dataset{args.o:03d}_{args.n}"
    sources = [merge.load_source(dataset) for dataset in args.d]
    plan = merge.plan_merge(sources, name, args.prefix_labels)
    folder = merge.check_target(name, plan.sources, args.overwrite)
    how = write_merge(plan, folder, args.copy)
    print(format_table(merge.task_rows(plan), ["task", "labels", "training", "unlabelled", "test"]))
    print(f"Wrote {folder} ({', '.join(f'{n} image files {way}' for way, n in how.items())}).")
    print(f"Next: nnUNetv2_plan_and_preprocess -d {args.o}")
