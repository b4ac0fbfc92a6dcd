"""Variants of plans: options, plan values that still make a network, and every refusal."""

import copy
import json
from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Literal

import pytest

from nnunet_ssl.commands import configure as command
from nnunet_ssl.config import TrainingConfig
from nnunet_ssl.conversion.plans import (
    configure_plans,
    option_rows,
    parse_settings,
    read_plans,
    resolve_configuration,
    show,
    write_plans,
)
from nnunet_ssl.errors import ConfigError, DataError


@dataclass(frozen=True)
class BaseConfig:
    """Options of a method.

    Attributes:
        mask: shape of the mask: ``box`` (eq. 3)
            or ``slice``. More on it here.
    """

    mask: Literal["box", "slice"] = "box"


@dataclass(frozen=True)
class MethodConfig(BaseConfig):
    """Options of another.

    Attributes:
        sizes: edge of each cube.
    """

    sizes: tuple[int, ...] = (6, 6)
    undescribed: bool = False


KNOWN = (TrainingConfig, BaseConfig, MethodConfig)


def architecture(dimension, features, residual=False):
    """As nnU-Net's planner writes it."""
    stages = len(features)
    blocks = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    network = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features,
            "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
            "kernel_sizes": [[3] * dimension] * stages,
            "strides": [[1] * dimension] + [[2] * dimension] * (stages - 2) + [[1] + [2] * (dimension - 1)],
            blocks: [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(identifier, patch_size, architecture_):
    return {
        "data_identifier": identifier,
        "batch_size": 2,
        "patch_size": patch_size,
        "batch_dice": False,
        "architecture": architecture_,
    }


@pytest.fixture
def plans():
    features = [32, 64, 128, 256, 320]
    fullres = configuration("nnUNetPlans_3d_fullres", [48, 80, 96], architecture(3, features))
    return {
        "dataset_name": "Dataset501_Heart",
        "plans_name": "nnUNetPlans",
        "configurations": {
            "2d": configuration("nnUNetPlans_2d", [80, 96], architecture(2, features)),
            "3d_fullres": fullres,
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


def configure(plans, *settings, unset=(), c=None):
    return configure_plans(plans, "variant", parse_settings(settings), unset, c, KNOWN)


def test_options_are_stored_flat_and_the_rest_is_left(plans):
    before = copy.deepcopy(plans)
    new, changes = configure(plans, "num_epochs=250", "mask=slice", "sizes=4,8", "seed=None")
    assert plans == before
    assert new["nnunet_ssl"]["options"] == {"num_epochs": 250, "mask": "slice", "sizes": (4, 8), "seed": None}
    assert changes == [
        ("num_epochs", "1000", "250"),
        ("mask", "box", "slice"),
        ("sizes", "6,6", "4,8"),
        ("seed", "None", "None"),
    ]
    assert new["plans_name"] == "variant"
    assert new["configurations"] == before["configurations"]


def test_options_build_on_those_of_the_source(plans):
    plans["nnunet_ssl"] = {"options": {"num_epochs": 250, "seed": 1}, "else": "kept"}
    new, changes = configure(plans, "seed=2", "save_every=5", unset=["num_epochs"])
    assert new["nnunet_ssl"] == {"options": {"seed": 2, "save_every": 5}, "else": "kept"}
    assert changes == [("seed", "1", "2"), ("save_every", "50", "5"), ("num_epochs", "250", "1000")]


def test_an_option_that_is_no_longer_known_can_be_removed(plans):
    plans["nnunet_ssl"] = {"options": {"gone": 1}}
    with pytest.raises(ConfigError, match=r"Unknown option\(s\) gone"):
        configure(plans, "seed=2")
    new, changes = configure(plans, unset=["gone"])
    assert new["nnunet_ssl"]["options"] == {} and changes == [("gone", "1", "unknown")]


def test_plan_values_of_one_configuration(plans):
    new, changes = configure(
        plans,
        "patch_size=24,40,48",
        "features_per_stage=8,16,32",
        "batch_size=4",
        "batch_dice=true",
        c="3d_fullres",
    )
    changed = new["configurations"]["3d_fullres"]
    assert (changed["patch_size"], changed["batch_size"], changed["batch_dice"]) == ([24, 40, 48], 4, True)
    assert changed["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert changed["architecture"] == architecture(3, [32, 64, 128, 256, 320]) | {
        "arch_kwargs": architecture(3, [8, 16, 32, 64])["arch_kwargs"]
        | {
            "n_stages": 3,
            "features_per_stage": [8, 16, 32],
            "kernel_sizes": [[3, 3, 3]] * 3,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "n_conv_per_stage": [2] * 3,
            "n_conv_per_stage_decoder": [2] * 2,
        }
    }
    assert new["configurations"]["2d"] == plans["configurations"]["2d"]
    assert new["configurations"]["3d_cascade_fullres"] == plans["configurations"]["3d_cascade_fullres"]
    assert changes == [
        ("3d_fullres: features_per_stage", "32,64,128,256,320", "8,16,32"),
        ("3d_fullres: patch_size", "48,80,96", "24,40,48"),
        ("3d_fullres: batch_size", "2", "4"),
        ("3d_fullres: batch_dice", "false", "true"),
    ]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dimension", [2, 3])
def test_nnunet_builds_the_cut_network(plans, dimension, residual):
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    name = {2: "2d", 3: "3d_fullres"}[dimension]
    plans["configurations"][name]["architecture"] = architecture(dimension, [32, 64, 128, 256], residual)
    patch = [8, 12, 16][:dimension]
    new, _ = configure(plans, "features_per_stage=4,8,8", f"patch_size={show(patch)}", c=name)
    manager = PlansManager(json.loads(json.dumps(new))).get_configuration(name)
    network = get_network_from_plans(
        manager.network_arch_class_name,
        manager.network_arch_init_kwargs,
        manager.network_arch_init_kwargs_req_import,
        1,
        3,
        deep_supervision=False,
    )
    assert network(torch.zeros(1, 1, *manager.patch_size)).shape == (1, 3, *patch)


def test_a_configuration_that_inherits_gets_overrides(plans):
    new, _ = configure(plans, "batch_size=3", "features_per_stage=8,16,32,64,64", c="3d_cascade_fullres")
    assert new["configurations"]["3d_fullres"] == plans["configurations"]["3d_fullres"]
    changed = new["configurations"]["3d_cascade_fullres"]
    assert set(changed) == {"inherits_from", "previous_stage", "batch_size", "architecture"}
    assert changed["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 16, 32, 64, 64]
    assert changed["architecture"]["arch_kwargs"]["n_stages"] == 5


def test_what_a_configuration_inherits_is_its_own_unless_it_says_otherwise(plans):
    fullres = plans["configurations"]["3d_fullres"]
    plans["configurations"]["3d_cascade_fullres"]["batch_size"] = 7
    found = resolve_configuration(plans, "3d_cascade_fullres")
    assert found["patch_size"] == fullres["patch_size"]
    assert (found["batch_size"], fullres["batch_size"]) == (7, 2)
    with pytest.raises(ConfigError, match="no configuration '2D'. They have: 2d, 3d_fullres, 3d_cascade"):
        resolve_configuration(plans, "2D")


def test_a_single_configuration_needs_no_name(plans):
    plans["configurations"] = {"2d": plans["configurations"]["2d"]}
    assert configure(plans, "batch_size=7")[0]["configurations"]["2d"]["batch_size"] == 7


def test_the_patch_may_be_smaller_where_stages_are_cut(plans):
    configure(plans, "patch_size=20,20,20", "features_per_stage=8,16,32", c="3d_fullres")
    with pytest.raises(ConfigError, match="multiples of 8,16,16"):
        configure(plans, "patch_size=20,20,20", c="3d_fullres")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "patch_size=25,40,48",
            r"multiples of 8,16,16 .* got 25,40,48\. Nearest below: 24,32,48; above: 32,48,48",
        ),
        ("patch_size=3,16,16", r"Nearest below: 8,16,16; above: 8,16,16"),
        ("patch_size=0,16,16", "multiples of 8,16,16"),
        ("patch_size=40,48", r"expected 3 numbers, got 2 \(40,48\)"),
        ("patch_size=a,b,c", "patch_size: expected tuple"),
        ("patch_size=8,16,16", "leaves a single voxel"),
        ("batch_size=0", "expected 1 <= batch_size, got 0"),
        ("batch_size=2.5", "batch_size: expected int, got 2.5"),
        ("batch_dice=2", "batch_dice: expected bool, got 2"),
        (
            "features_per_stage=8,16,32,64,128,256",
            "expected 3 to 5 positive numbers, .*with 5 stages .32,64,128,256,320.",
        ),
        ("features_per_stage=8,", "expected 3 to 5 positive numbers"),
        ("features_per_stage=8,16", "expected 3 to 5 positive numbers"),
        ("features_per_stage=8,0,32", "expected 3 to 5 positive numbers"),
        ("features_per_stage=8", "expected tuple"),
        ("num_epochs=0", "expected 1 <= num_epochs, got 0"),
        ("num_epochs=many", "num_epochs: expected int, got 'many'"),
        ("mask=sphere", "mask: expected one of box, slice, got 'sphere'"),
        (
            "epochs=3",
            r"Unknown key\(s\) epochs\. Plan values: features_per_stage, .*Options: .*mask, .*num_epochs",
        ),
    ],
)
def test_values_that_do_not_fit(plans, setting, message):
    with pytest.raises(ConfigError, match=message):
        configure(plans, setting, c="3d_fullres")


@pytest.mark.parametrize(("c", "found"), [(None, "none"), ("3d_lowres", "'3d_lowres'")])
def test_plan_values_need_a_configuration(plans, c, found):
    with pytest.raises(ConfigError, match=rf"-c with one of 2d, 3d_fullres, 3d_cascade_fullres, got {found}"):
        configure(plans, "batch_size=2", c=c)


def test_a_network_without_stages(plans):
    plans["configurations"]["2d"]["architecture"] = {
        "network_class_name": "dynamic_network_architectures.architectures.primus.Primus",
        "arch_kwargs": {"embed_dim": 8},
    }
    with pytest.raises(
        ConfigError, match="Primus, the network of configuration 2d, has no features_per_stage"
    ):
        configure(plans, "features_per_stage=8,16", c="2d")
    assert configure(plans, "patch_size=40,40", c="2d")[0]["configurations"]["2d"]["patch_size"] == [40, 40]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["num_epochs"], "expected KEY=VALUE, got 'num_epochs'"),
        (["=3"], "expected KEY=VALUE, got '=3'"),
        (["seed=1", "seed=2"], r"seed is given twice \(1 and 2\)"),
    ],
)
def test_settings_are_key_value(items, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(items)


def test_a_value_may_hold_an_equals_sign():
    assert parse_settings(["prompt_file = a=b.npz"]) == {"prompt_file": "a=b.npz"}


def test_nothing_to_do_and_contradictions(plans):
    with pytest.raises(ConfigError, match="Nothing to change"):
        configure(plans)
    with pytest.raises(ConfigError, match="seed is not among the options set in these plans"):
        configure(plans, unset=["seed"])
    plans["nnunet_ssl"] = {"options": {"seed": 1}}
    with pytest.raises(ConfigError, match="seed is both set and unset"):
        configure(plans, "seed=2", unset=["seed"])


def test_the_list_of_options():
    rows = {row[0]: row[1:] for row in option_rows(KNOWN)}
    assert rows["num_epochs"] == ("int", "1000", "training length")
    assert rows["mask"] == ("box|slice", "box", "shape of the mask: box (eq. 3) or slice")
    assert rows["sizes"] == ("tuple[int, ...]", "6,6", "edge of each cube")
    assert rows["undescribed"] == ("bool", "false", "")
    assert rows["seed"][:2] == ("int | None", "None")


def test_defaults_that_differ_name_their_methods():
    rows = {row[0]: row[2] for row in option_rows(command.known_configs())}
    assert rows["ema_decay"].startswith("0.99")
    assert "0.1 (MeanTeacher)" in rows["weight_unlabeled"] and "0.5 (BCP)" in rows["weight_unlabeled"]
    assert rows["num_epochs"] == "1000"


# Files


@pytest.fixture
def folder(tmp_path, monkeypatch, plans):
    """A preprocessed dataset with plans, and known options."""
    for name in ("nnUNet_raw", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setattr(command, "known_configs", lambda: KNOWN)
    folder = tmp_path / "Dataset501_Heart"
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text('{"labels": {}}')
    return folder


def run(*argv):
    parser = ArgumentParser(description=command.__doc__)
    command.add_arguments(parser)
    command.run(parser.parse_args(argv))


def test_the_command_says_who_trains_the_cascade(folder, capsys):
    run("-d", "501", "-c", "3d_cascade_fullres", "-o", "larger", "--set", "batch_size=3")
    assert "Only nnUNetTrainer trains 3d_cascade_fullres, none of ours" in capsys.readouterr().out
    run("-d", "501", "-c", "3d_fullres", "-o", "other", "--set", "batch_size=3")
    assert "none of ours" not in capsys.readouterr().out


def test_the_command_writes_and_tells(folder, capsys):
    run(
        "-d",
        "501",
        "-c",
        "3d_fullres",
        "-o",
        "small",
        "--set",
        "patch_size=16,32,32",
        "--set",
        "mask=slice",
        "seed=3",
    )
    new = json.loads((folder / "small.json").read_text())
    assert new["plans_name"] == "small"
    assert new["nnunet_ssl"]["options"] == {"mask": "slice", "seed": 3}
    out = capsys.readouterr().out.split("\n")
    assert [line.split() for line in out[2:5]] == [
        ["mask", "box", "slice"],
        ["seed", "None", "3"],
        ["3d_fullres:", "patch_size", "48,80,96", "16,32,32"],
    ]
    assert out[5] == f"Wrote {folder / 'small.json'}"
    run("-d", "501", "-p", "small", "-o", "smaller", "--unset", "seed")
    assert json.loads((folder / "smaller.json").read_text())["nnunet_ssl"]["options"] == {"mask": "slice"}


def test_plans_that_exist(folder, capsys):
    run("-d", "501", "-o", "variant", "--set", "sizes=1,2")
    capsys.readouterr()
    run("-d", "501", "-o", "variant", "--set", "sizes=1,2")
    assert "already holds these plans" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="exists with other content.*--overwrite"):
        run("-d", "501", "-o", "variant", "--set", "seed=2")
    run("-d", "501", "-o", "variant", "--set", "seed=2", "--overwrite")
    assert json.loads((folder / "variant.json").read_text())["nnunet_ssl"]["options"] == {"seed": 2}


@pytest.mark.parametrize("name", ["nnUNetPlans", "dataset"])
def test_files_of_nnunet_are_never_replaced(folder, name):
    before = (folder / f"{name}.json").read_text()
    run("-d", "501", "-o", "variant", "--set", "seed=2")
    with pytest.raises(ConfigError, match="was not made by this command"):
        run("-d", "501", "-p", "variant", "-o", name, "--set", "seed=3", "--overwrite")
    assert (folder / f"{name}.json").read_text() == before


def test_names_of_plans(folder, plans):
    with pytest.raises(ConfigError, match="need a name of their own"):
        run("-d", "501", "-o", "nnUNetPlans", "--set", "seed=2")
    for name in ("a__b", "a/b", ""):
        with pytest.raises(ConfigError, match="expected a name of letters"):
            write_plans(folder, {**plans, "plans_name": name}, "nnUNetPlans")


def test_plans_that_are_missing(folder):
    with pytest.raises(
        DataError, match=r"Expected plans in .*other\.json, which does not exist\. Plans there: nnUNetPlans\."
    ):
        read_plans(folder, "other")
    with pytest.raises(DataError, match=r"dataset\.json holds no plans"):
        read_plans(folder, "dataset")
    with pytest.raises(DataError, match="There is no dataset 502"):
        run("-d", "502", "-o", "variant", "--set", "seed=2")


def test_a_raw_dataset_must_be_preprocessed_first(folder, tmp_path, monkeypatch):
    (tmp_path / "raw" / "Dataset502_Liver").mkdir(parents=True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    with pytest.raises(
        DataError, match="Dataset502_Liver is not in nnUNet_preprocessed.*nnUNetv2_plan_and_preprocess"
    ):
        run("-d", "502", "-o", "variant", "--set", "seed=2")


def test_the_dataset_and_the_name_are_needed(folder):
    with pytest.raises(ConfigError, match=r"Expected a dataset \(-d\) and a name"):
        run("--set", "seed=2")


def test_list_needs_no_dataset(monkeypatch, capsys):
    monkeypatch.setattr(command, "known_configs", lambda: KNOWN)
    run("--list")
    assert "undescribed" in capsys.readouterr().out


def test_the_methods_options_are_known():
    names = [config.__name__ for config in command.known_configs()]
    assert names[0] == "TrainingConfig" and len(names) > 1
