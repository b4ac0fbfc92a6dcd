"""Options: types, ranges, unknown names, and text from the command line."""

from dataclasses import dataclass
from typing import Literal

import pytest

from nnunet_ssl.config import (
    TrainingConfig,
    check_known,
    check_range,
    option_names,
    parse_value,
    resolve,
)
from nnunet_ssl.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """Every kind of option."""

    mask: Literal["box", "slice"] = "box"
    window: tuple[float, float] = (0.3, 0.7)
    sizes: tuple[int, ...] = (6,)
    prompt_file: str | None = None
    detach: bool = False
    kernel: Literal[1, 3] = 3
    num_epochs: int = 7


KNOWN = (TrainingConfig, Method)


def test_defaults_are_those_of_nnunet():
    config = resolve(TrainingConfig, {}, KNOWN)
    assert config == TrainingConfig()
    assert (config.num_epochs, config.initial_lr, config.weight_decay) == (1000, 1e-2, 3e-5)


def test_a_config_takes_what_concerns_it_and_converts_json():
    options = {"window": [0, 1], "sizes": [4, 8], "initial_lr": 1, "mask": "slice"}
    method = resolve(Method, options, KNOWN)
    assert (method.window, method.sizes, method.mask) == ((0.0, 1.0), (4, 8), "slice")
    learning_rate = resolve(TrainingConfig, options, KNOWN).initial_lr
    assert learning_rate == 1.0 and isinstance(learning_rate, float)


def test_the_first_class_gives_a_shared_option_its_type():
    assert list(option_names(KNOWN))[0] == "num_epochs"
    assert option_names([Method])["prompt_file"] == str | None


def test_unknown_options_are_errors_that_list_the_known():
    with pytest.raises(
        ConfigError, match=r"Unknown option\(s\) epochs, maks\. Known options: detach, .*num_epochs"
    ):
        resolve(Method, {"maks": "box", "epochs": 3}, KNOWN)
    check_known(["mask", "seed"], KNOWN)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (TrainingConfig, {"num_epochs": 2.5}, "num_epochs: expected int, got 2.5"),
        (TrainingConfig, {"num_epochs": True}, "num_epochs: expected int, got True"),
        (TrainingConfig, {"num_epochs": 0}, "expected 1 <= num_epochs, got 0"),
        (TrainingConfig, {"initial_lr": 0}, "expected 0 < initial_lr, got 0.0"),
        (TrainingConfig, {"initial_lr": float("nan")}, "got nan"),
        (TrainingConfig, {"weight_decay": float("inf")}, "got inf"),
        (
            TrainingConfig,
            {"oversample_foreground_percent": 1.5},
            "0 <= oversample_foreground_percent <= 1, got 1.5",
        ),
        (TrainingConfig, {"optimizer": "lion"}, "expected one of sgd, adam, adamw, got 'lion'"),
        (TrainingConfig, {"mirror_axes": [0, 3]}, "expected 0 <= mirror_axes <= 2, got 3"),
        (TrainingConfig, {"unlabeled_batch_size": 0}, "expected 1 <= unlabeled_batch_size, got 0"),
        (TrainingConfig, {"seed": "x"}, r"seed: expected int \| None, got 'x'"),
        (Method, {"window": [0.3]}, "window: expected 2 values, got 1"),
        (Method, {"window": 0.3}, r"window: expected tuple\[float, float\], got 0.3"),
        (Method, {"sizes": [4, "a"]}, "sizes: expected int, got 'a'"),
        (Method, {"detach": 1}, "detach: expected bool, got 1"),
        (Method, {"kernel": True}, "kernel: expected one of 1, 3, got True"),
    ],
)
def test_wrong_values_are_named(config, options, message):
    with pytest.raises(ConfigError, match=message):
        resolve(config, options, KNOWN)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("250", int, 250),
        ("1e-3", float, 1e-3),
        (".5", float, 0.5),
        ("3", float, 3.0),
        ("true", bool, True),
        ("False", bool, False),
        ("null", int | None, None),
        ("None", str | None, None),
        ("slice", Literal["box", "slice"], "slice"),
        ("2024", str, "2024"),
        ("2024", str | None, "2024"),
        ("C:\\prompts\\a.npz", str | None, "C:\\prompts\\a.npz"),
        ("[0.3, 0.7]", tuple[float, float], (0.3, 0.7)),
        ("8,16,32", tuple[int, ...], (8, 16, 32)),
        ("(8, 16)", tuple[int, ...], (8, 16)),
        ("(2,)", tuple[int, ...] | None, (2,)),
        ("()", tuple[int, ...] | None, ()),
        ("a=b", str, "a=b"),
    ],
)
def test_text_is_read_as_the_type_wants(text, hint, value):
    parsed = parse_value("option", text, hint)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "message"),
    [
        ("ten", int, "Option n: expected int, got 'ten'"),
        ("2.5", int, "Option n: expected int, got 2.5"),
        ("", int, "Option n: expected int, got ''"),
        ("yes", bool, "Option n: expected bool, got 'yes'"),
        ("8,x", tuple[int, ...], r"Option n: expected tuple\[int, \.\.\.\], got '8,x'"),
    ],
)
def test_text_of_another_type_is_refused(text, hint, message):
    with pytest.raises(ConfigError, match=message):
        parse_value("n", text, hint)


def test_ranges():
    check_range("x", 0, low=0, high=1)
    check_range("x", 1, low=0, high=1)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="expected 0 <= x <= 1"):
            check_range("x", bad, low=0, high=1)
    with pytest.raises(ConfigError, match="expected 0 < x, got 0"):
        check_range("x", 0, low=0, open_low=True)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_are_those_that_numpy_takes(seed):
    with pytest.raises(ConfigError, match=f"Option seed: expected 0 <= .* <= 4294967295, got {seed}"):
        TrainingConfig(seed=seed)
    assert TrainingConfig(seed=0).seed == 0 and TrainingConfig().seed is None
