"""Sentences as token vectors of a frozen text encoder: computed once, stored with a dataset.

There are few sentences and the encoder is frozen, so neither training nor prediction runs it. The vectors lie
in ``prompt_embedding.npz`` beside ``dataset.json``, which says that they are there and how large they are.

Shapes: K sentences, L tokens (padding included), D width of the text encoder.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from nnunet_ssl.data.dataset_json import described_folders, existing_folder, find_dataset
from nnunet_ssl.errors import ConfigError, DataError
from nnunet_ssl.json_files import read_json, write_json_atomically
from nnunet_ssl.tasks import BLOCK, EMBEDDING, Embedding, TaskTable

FILE = "prompt_embedding.npz"
_TEXTS = ("labels", "sentences", "model", "digest")


@dataclass(frozen=True)
class PromptEmbedding:
    """Embedded sentences.

    Attributes:
        labels: whose sentences they are.
        sentences: one for each label.
        tokens: float32 (K, L, D), the last hidden state of the text encoder.
        mask: bool (K, L), false where padded.
        model: name of the text encoder.
        digest: fingerprint of its weights.
    """

    labels: tuple[str, ...]
    sentences: tuple[str, ...]
    tokens: np.ndarray
    mask: np.ndarray
    model: str
    digest: str

    @property
    def shape(self) -> Embedding:
        """What dataset.json says about it."""
        return Embedding(self.tokens.shape[1], self.tokens.shape[2], self.model, self.digest)

    def save(self, path: Path) -> None:
        """Write an ``.npz``; ``path`` holds either its old or all of its new content, also after a crash."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in _TEXTS}
                np.savez(file, tokens=self.tokens, mask=self.mask, **arrays)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> PromptEmbedding:
        """Read an ``.npz`` that ``save`` has written.

        Raises:
            DataError: the file is missing, broken or something else.
        """
        again = "Make it with 'nnUNetv2_ssl embed-prompts'."
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                texts = {name: stored[name].tolist() for name in _TEXTS}
                tokens, mask = stored["tokens"], stored["mask"]
        except FileNotFoundError:
            raise DataError(f"Expected embedded prompts in {path}, which does not exist. {again}") from None
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} holds no embedded prompts ({error}). {again}") from error
        labels, sentences = tuple(texts["labels"]), tuple(texts["sentences"])
        if tokens.ndim != 3 or mask.shape != tokens.shape[:2] or not np.isfinite(tokens).all():
            raise DataError(f"{path}: expected finite tokens (K, L, D) and a mask (K, L). {again}")
        if not len(labels) == len(sentences) == len(tokens):
            raise DataError(f"{path}: {len(labels)} labels, but {len(tokens)} embedded sentences. {again}")
        return cls(labels, sentences, tokens, mask, texts["model"], texts["digest"])

    def rows(self) -> list[tuple[object, ...]]:
        """Rows of label, sentence, number of tokens, and the label whose sentence is most alike."""
        cosine, rows = self.similarity(), []
        for k, (label, sentence) in enumerate(zip(self.labels, self.sentences, strict=True)):
            others = [j for j in range(len(cosine)) if j != k]
            closest = max(others, key=lambda j: cosine[k, j], default=k)  # noqa: B023  (called at once)
            alike = (self.labels[closest], float(cosine[k, closest])) if others else (None, None)
            rows.append((label, sentence, int(self.mask[k].sum()), *alike))
        return rows

    def similarity(self) -> np.ndarray:
        """Cosine (K, K) between the mean token vectors of the sentences."""
        weight = self.mask / self.mask.sum(1, keepdims=True)
        mean = (self.tokens * weight[..., None]).sum(1)
        mean = mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(min=1e-12)
        return np.asarray(mean @ mean.T)


def embed(
    sentences: Mapping[str, str], model: str, max_tokens: int = 24, trust_remote_code: bool = False
) -> PromptEmbedding:
    """Run the text encoder on a sentence for each label.

    Args:
        sentences: by label.
        model: folder of a BERT-like model, or its name on a hub.
        max_tokens: L, to which sentences are padded (the official code's 24).
        trust_remote_code: run model code that comes with the model.

    Raises:
        ConfigError: transformers is not installed, or max_tokens is too small or too large.
        DataError: the model cannot be loaded or is no text encoder.
    """
    import torch

    tokenizer, encoder, absent = _load_model(model, trust_remote_code)
    counts = {label: len(tokenizer(text)["input_ids"]) for label, text in sentences.items()}
    longest = max(counts, key=lambda label: counts[label])
    limit = getattr(encoder.config, "max_position_embeddings", max_tokens)
    if max_tokens > limit:
        raise ConfigError(f"--max-tokens is {max_tokens}, but '{model}' takes {limit} at most. Lower it.")
    if counts[longest] > max_tokens:
        raise ConfigError(
            f"--max-tokens is {max_tokens}, but the sentence of '{longest}' has {counts[longest]} tokens: "
            f"'{sentences[longest]}'. Raise --max-tokens or shorten the sentence."
        )
    padding = {"padding": "max_length", "max_length": max_tokens, "return_tensors": "pt"}
    try:
        inputs = tokenizer(list(sentences.values()), **padding)
        with torch.no_grad():
            tokens = encoder(**inputs).last_hidden_state
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"'{model}' is no text encoder that can be used here ({error}). Expected a BERT-like model."
        ) from error
    return PromptEmbedding(
        labels=tuple(sentences),
        sentences=tuple(sentences.values()),
        tokens=tokens.float().numpy(),
        mask=inputs["attention_mask"].bool().numpy(),
        model=_shown_name(model),
        digest=_digest(encoder, absent),
    )


def dataset_folders(id_or_name: int | str) -> list[Path]:
    """The dataset's folders in nnUNet_raw and nnUNet_preprocessed, as far as they hold a dataset.json.

    Raises:
        DataError: there is no such dataset, or neither folder holds one.
    """
    name = find_dataset(id_or_name)
    found = described_folders(name)
    if not found:
        raise DataError(f"{name} has no dataset.json in nnUNet_raw or nnUNet_preprocessed. Add it.")
    return found


def stored_file(name: str) -> Path | None:
    """Embedded prompts of a dataset by its full name, preprocessed folder first; ``None`` if it has none."""
    folders = [existing_folder("preprocessed", name), existing_folder("raw", name)]
    return next((f / FILE for f in folders if f is not None and (f / FILE).is_file()), None)


def with_sentences(dataset_json: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """``dataset.json`` with sentences for some labels.

    Raises:
        ConfigError: a label is unknown.
    """
    table = TaskTable.from_dataset_json(dataset_json)
    known = [p.label for p in table.prompts]
    unknown = [label for label in given if label not in known]
    if unknown:
        raise ConfigError(f"--prompt: unknown label(s) {', '.join(unknown)}. Known: {', '.join(known)}.")
    if not given:
        return dataset_json
    tasks = table.to_json()
    for task in tasks:
        task["prompts"] |= {label: given[label] for label in task["labels"] if label in given}
    return {**dataset_json, BLOCK: {**dataset_json.get(BLOCK, {}), "tasks": tasks}}


def store(embedding: PromptEmbedding, folders: Sequence[Path], given: Mapping[str, str]) -> list[Path]:
    """Write the vectors beside each ``dataset.json``, and into it what they are.

    Returns:
        The folders that could be written; others are read-only.

    Raises:
        DataError: a folder's labels are others than those embedded, or no folder can be written.
    """
    contents = {folder: with_sentences(read_json(folder / "dataset.json"), given) for folder in folders}
    for folder, content in contents.items():
        check_sentences(embedding, TaskTable.from_dataset_json(content), folder / "dataset.json")
    writable = [folder for folder in contents if os.access(folder, os.W_OK)]
    if not writable:
        raise DataError(f"Nothing can be written in {', '.join(map(str, folders))}. Copy the dataset first.")
    for folder in writable:
        embedding.save(folder / FILE)
        block = {**contents[folder].get(BLOCK, {}), EMBEDDING: asdict(embedding.shape)}
        write_json_atomically(folder / "dataset.json", {**contents[folder], BLOCK: block})
    return writable


def check_sentences(embedding: PromptEmbedding, table: TaskTable, where: Path) -> None:
    """Raise ``DataError`` if the embedded sentences are not those of the table."""
    expected = dict(zip([p.label for p in table.prompts], table.sentences(), strict=True))
    found = dict(zip(embedding.labels, embedding.sentences, strict=True))
    if list(expected.items()) != list(found.items()):
        differing = [label for label in {**expected, **found} if expected.get(label) != found.get(label)]
        raise DataError(
            f"{where}: the sentences or the order of {', '.join(differing) or 'labels'} are not those "
            "that were embedded. Run 'nnUNetv2_ssl embed-prompts' again (after nnUNetv2_plan_and_preprocess, "
            "if labels have changed)."
        )


def _load_model(model: str, trust_remote_code: bool) -> tuple[Any, Any, set[str]]:
    """Tokenizer, text encoder, and names of weights that are not in its file (at most those of a pooler)."""
    try:
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise ConfigError(
            "Text encoders need the package transformers. Install it: pip install transformers"
        ) from None
    logging.disable_progress_bar()
    options = {"trust_remote_code": trust_remote_code, "local_files_only": Path(model).is_dir()}
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, **options)
        encoder, about = AutoModel.from_pretrained(model, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise DataError(
            f"Cannot load a text encoder from '{model}': expected a folder with config, weights and "
            f"tokenizer, or a name on the hub. {error}"
        ) from error
    absent = set(about["missing_keys"])
    needed = sorted(name for name in absent if not name.startswith("pooler."))
    if needed:
        raise DataError(f"The file of '{model}' lacks weights of a text encoder, such as {needed[0]}.")
    return tokenizer, encoder.eval().float(), absent


def _shown_name(model: str) -> str:
    """Name for people: of a folder its last two parts, since many are called "model"."""
    folder = Path(model)
    return "/".join(folder.resolve().parts[-2:]) if folder.is_dir() else model


def _digest(encoder: Any, absent: set[str]) -> str:
    """Fingerprint of a model's weights, whatever its folder is called.

    Checkpoints of masked language models have no pooler: its weights are drawn anew whenever they are loaded.
    """
    total = hashlib.sha256()
    stored = {name: value for name, value in encoder.state_dict().items() if name not in absent}
    for name, value in sorted(stored.items()):
        total.update(name.encode())
        total.update(value.cpu().numpy().tobytes())
    return total.hexdigest()[:16]
