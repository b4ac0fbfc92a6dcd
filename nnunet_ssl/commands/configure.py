"""Make a variant of a plans file: options of the trainers, and a few plan values of one configuration.

The variant has a name of its own, and so have its results; preprocessed data are shared. Use it with
nnUNetv2_train ... -p NEWPLANS. --list shows the options, which our trainers read; the stock nnUNetTrainer
does not (nnUNetTrainerSSLSupervised is its like that does). Values of a configuration (-c), which every
trainer reads: features_per_stage=8,16,32 (fewer numbers cut stages), patch_size=24,40,48, batch_size=2,
batch_dice=true.
"""

from __future__ import annotations

import argparse

HELP = "make a plans file with other options"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``nnUNetv2_ssl configure``."""
    parser.add_argument("-d", metavar="ID", help="dataset number or name")
    parser.add_argument("-c", metavar="CONFIG", help="configuration that gets the plan values")
    parser.add_argument(
        "-p", metavar="PLANS", default="nnUNetPlans", help="plans to start from (default: %(default)s)"
    )
    parser.add_argument("-o", metavar="NEWPLANS", help="name of the new plans")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="what to set"
    )
    parser.add_argument(
        "--unset", nargs="+", action="extend", default=[], metavar="KEY", help="options to set back"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace plans that this command has made")
    parser.add_argument("--list", action="store_true", help="print all options and stop")


def run(args: argparse.Namespace) -> None:
    """Write the new plans and print what changed."""
    from nnunet_ssl.conversion import plans
    from nnunet_ssl.data.dataset_json import dataset_folder
    from nnunet_ssl.errors import ConfigError
    from nnunet_ssl.tables import format_table

    known = known_configs()
    if args.list:
        print(format_table(plans.option_rows(known), ["option", "type", "default", "meaning"]))
        return
    if args.d is None or args.o is None:
        raise ConfigError("Expected a dataset (-d) and a name for the new plans (-o), or --list.")
    folder = dataset_folder("preprocessed", args.d)
    source = plans.read_plans(folder, args.p)
    new, changes = plans.configure_plans(
        source, args.o, plans.parse_settings(args.set), args.unset, args.c, known
    )
    path, changed = plans.write_plans(folder, new, args.p, args.overwrite)
    print(format_table(changes, ["key", "old", "new"]))
    print(f"Wrote {path}" if changed else f"{path} already holds these plans.")
    if args.c in new["configurations"] and plans.is_cascade(new, args.c):
        print(f"Only nnUNetTrainer trains {args.c}, none of ours: {plans.NO_CASCADE}")


def known_configs() -> tuple[type, ...]:
    """Every class of options: that of all trainers, then one per method."""
    from nnunet_ssl.config import TrainingConfig
    from nnunet_ssl.methods import CONFIGS

    return (TrainingConfig, *CONFIGS)
