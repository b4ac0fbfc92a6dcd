"""The same weights, predicting another way: options that only prediction reads, such as the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_type_hints

from nnunet_ssl.config import TrainingConfig, parse_value, resolve
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.inference.exported import Description, name_for_path
from nnunet_ssl.methods import CONFIGS
from nnunet_ssl.tasks import BLOCK
from nnunet_ssl.training.find import find_trainer


def choose(model: Description, settings: Mapping[str, str]) -> Description:
    """The model with other options for prediction, as if it had been trained with them.

    Args:
        model: what it says of itself.
        settings: text of each option. The plans' name gets the values, so that an installed model replaces
            no other.

    Raises:
        ConfigError: an option is none of prediction, or its value does not fit.
    """
    trainer = find_trainer(model.trainer)
    config_class: Any = getattr(trainer, "method_config_class", None)
    known = getattr(config_class, "inference_options", ())
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"--set {key}: of a trained {model.trainer} one can set {' and '.join(known) or 'nothing'}, "
                "for prediction. Any other option needs a training."
            )
    block, hints = model.plans.get(BLOCK, {}), get_type_hints(config_class)
    options = block.get("options", {}) | {k: parse_value(k, v, hints[k]) for k, v in settings.items()}
    config = resolve(config_class, options, [TrainingConfig, *CONFIGS])
    block = {**block, "options": options, **trainer.network_plans(config, model.table)}
    name = "_".join([model.plans["plans_name"], *map(name_for_path, settings.values())])
    return replace(model, plans={**model.plans, "plans_name": name, BLOCK: block})
