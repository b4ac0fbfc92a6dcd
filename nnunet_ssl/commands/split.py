"""Choose which training cases keep their labels: writes splits_final.json of the preprocessed dataset.

Each fold has nnU-Net's "train" (labelled) and "val" and one more key, "unlabeled": cases whose labels are
hidden from training. The stock trainer ignores that key, so it is the supervised baseline on the same
labelled cases. For the same seed, the cases of --labeled 4 are among those of --labeled 8, and the
validation stays the same.
"""

from __future__ import annotations

import argparse

HELP = "choose the labelled and unlabelled cases of each fold"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``nnUNetv2_ssl split``."""
    parser.add_argument("-d", required=True, metavar="ID", help="dataset number or name")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument(
        "--labeled",
        nargs="+",
        metavar="N|FRACTION|all",
        help="labelled cases of each task: a number (8), a share of the training cases (0.1 or 1/16), or "
        "'all'; several make one fold each, which needs --val",
    )
    chosen.add_argument(
        "--labeled-cases",
        metavar="CASES",
        help="exactly these cases stay labelled: identifiers with commas, or a file of them; needs --val",
    )
    chosen.add_argument(
        "--like",
        metavar="MERGED",
        help="take the folds over from this dataset, which 'nnUNetv2_ssl merge' has made of -d and others, "
        "to train one task alone on the same cases",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed gives another split (default: %(default)s)"
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--folds", type=int, default=5, help="folds of the cross-validation (default: %(default)s)"
    )
    shape.add_argument(
        "--val",
        type=float,
        metavar="FRACTION",
        help="one fold with this share of the cases as fixed validation set",
    )
    parser.add_argument(
        "--group-regex",
        metavar="RE",
        help="cases with the same first group (or whole match) of this regular expression stay together, for "
        "instance '(patient\\d+)'; if several tasks number their patients alike, let the group include the "
        "task's prefix",
    )


def run(args: argparse.Namespace) -> None:
    """Write the split and print how many cases came out."""
    from nnunet_ssl.conversion import split
    from nnunet_ssl.conversion.split_like import folds_like
    from nnunet_ssl.data.dataset_json import find_dataset, root_folder
    from nnunet_ssl.tables import format_table

    cases, notes = split.load_cases(args.d), []
    if args.like is not None:
        folds = folds_like(args.d, cases, args.like)
    else:
        labeled = [split.parse_labeled(text) for text in args.labeled or ["all"]]
        request = split.SplitRequest(
            labeled=labeled[0],
            labeled_cases=split.parse_case_list(args.labeled_cases) if args.labeled_cases is not None else (),
            seed=args.seed,
            folds=args.folds,
            val=args.val,
            group_regex=args.group_regex,
        )
        folds = split.make_folds_of_shares(cases, request, labeled)
        notes = split.count_notes(folds, cases, request, labeled)
    path, backup, changed = split.write_splits(root_folder("preprocessed") / find_dataset(args.d), folds)
    print(format_table(split.count_rows(folds, cases), ["fold", "task", "labelled", "unlabelled", "val"]))
    for note in notes:
        print(note)
    if backup is not None:
        print(f"The former split is kept as {backup}")
    print(f"Wrote {path}" if changed else f"{path} already holds this split.")
