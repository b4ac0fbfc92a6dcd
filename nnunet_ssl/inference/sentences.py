"""Asking a trained network in other words.

``nnUNet_ssl_prompts=FILE nnUNet_ssl_task=TASK nnUNetv2_predict ...`` lets the sentences in FILE (made by
``nnUNetv2_ssl embed-prompts -o FILE``) stand for those of the same labels that the network was trained with.

A label that the network does not know is refused: nothing says that a sentence alone makes a network find
what it was never shown. As an experiment it can be asked for with ``nnUNet_ssl_unseen=1``; its mask is then
written as the first label's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.conversion.prompt_embedding import PromptEmbedding
from nnunet_ssl.errors import ConfigError, TaskError
from nnunet_ssl.inference.prompts import TASK_VARIABLE
from nnunet_ssl.tasks import Embedding, TaskTable

PROMPTS_VARIABLE = "nnUNet_ssl_prompts"
UNSEEN_VARIABLE = "nnUNet_ssl_unseen"
WISHES = (TASK_VARIABLE, PROMPTS_VARIABLE, UNSEEN_VARIABLE)  # what one may ask of a network at prediction


@dataclass(frozen=True)
class Question:
    """What prediction asks.

    Attributes:
        prompts: indices of the prompts.
        tokens: new token vectors (L, D) and mask (L,) of some prompts, by index.
    """

    prompts: tuple[int, ...]
    tokens: dict[int, tuple[Tensor, Tensor]]


def wished_question(table: TaskTable, trained: Embedding | None, wish: str | None) -> Question:
    """What a network is asked.

    Args:
        table: the tasks that the network knows.
        trained: the sentences that it was trained with; ``None`` for other prompts.
        wish: task or label (``wished_task``).

    Raises:
        TaskError: of several tasks none is asked, or the one that is asked is unknown.
        ConfigError: the sentences do not fit the network, or are for other labels than those asked for.
        DataError: the file of sentences is missing or broken.
    """
    file = os.environ.get(PROMPTS_VARIABLE)
    new = _new_sentences(Path(file), trained) if file else {}
    known = {p.label.lower(): k for k, p in enumerate(table.prompts)}
    tokens = {known[label]: value for label, value in new.items() if label in known}
    unseen = [label for label in new if label not in known]
    if unseen and not _on(UNSEEN_VARIABLE):
        raise TaskError(
            f"{PROMPTS_VARIABLE} has a sentence for {', '.join(unseen)}, which the network was not "
            f"trained for. Known: {', '.join(p.label for p in table.prompts)}. Set {UNSEEN_VARIABLE}=1 to "
            "ask nevertheless, as an experiment."
        )
    if wish and wish.strip().lower() in unseen:
        print(f"Experiment: '{wish}' was never trained; its mask is written as '{table.prompts[0].label}'.")
        return Question((0,), {0: new[wish.strip().lower()]})
    prompts = _prompts(table, wish)
    if new and not set(prompts) & set(tokens):
        asked = ", ".join(table.prompts[k].label for k in prompts)
        raise ConfigError(
            f"{PROMPTS_VARIABLE} has sentences for {', '.join(new)}, but what is asked for is {asked}. Set "
            f"{TASK_VARIABLE} to one of those labels, or unset {PROMPTS_VARIABLE}."
        )
    return Question(prompts, tokens)


def install_tokens(network: nn.Module, key: str, tokens: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Let new token vectors replace the checkpoint's whenever weights are loaded.

    Args:
        network: what nnU-Net loads checkpoints into.
        key: name of the ``PromptTokens`` in its state dict.
        tokens: new vectors by prompt.
    """

    def replace(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, part in (("tokens", 0), ("mask", 1)):
            values = state[f"{prefix}{key}.{name}"].clone()  # the checkpoint's own stays as it is
            for k, new in tokens.items():
                values[k] = new[part].to(values)
            state[f"{prefix}{key}.{name}"] = values

    if tokens:
        network.register_load_state_dict_pre_hook(replace)


def _prompts(table: TaskTable, wish: str | None) -> tuple[int, ...]:
    if wish:
        return tuple(table.resolve(wish))
    if len(table) > 1:
        known = "; ".join(f"{t.name} (labels: {', '.join(t.labels)})" for t in table.tasks)
        raise TaskError(
            f"This network answers one task at a time, and none was asked for. Set {TASK_VARIABLE} to a task "
            f"or a label. Known tasks: {known}."
        )
    return tuple(range(len(table.prompts)))


def _new_sentences(file: Path, trained: Embedding | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Token vectors and mask by label in lower case."""
    if trained is None:
        raise ConfigError(
            f"{PROMPTS_VARIABLE} gives sentences, but this network was trained without: its prompts are "
            "learned vectors. Unset the variable."
        )
    new = PromptEmbedding.load(file)
    if new.shape.digest != trained.digest:
        raise ConfigError(
            f"{file} was made with the text encoder {new.model} (fingerprint {new.digest}), the network was "
            f"trained with {trained.model} ({trained.digest}). Embed the sentences with that."
        )
    if new.shape.tokens != trained.tokens:
        raise ConfigError(
            f"{file} holds sentences of {new.shape.tokens} tokens, the network was trained with "
            f"{trained.tokens}. Add --max-tokens {trained.tokens} to 'nnUNetv2_ssl embed-prompts'."
        )
    return _by_label(new.labels, torch.from_numpy(new.tokens), torch.from_numpy(new.mask))


def _by_label(labels: Sequence[str], tokens: Tensor, mask: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    return {label.lower(): (t, m) for label, t, m in zip(labels, tokens, mask, strict=True)}


def _on(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")
