"""Run a frozen text encoder once over a dataset's sentences and store the result with the dataset.

Every foreground label has a sentence, such as "Segment the breast cancer in the ultrasound image.": that of
dataset.json (nnunet_ssl, tasks, prompts), that of --prompt, or one made from the names of task and label.
nnUNetTrainerProPL keeps the result in the network, so that neither training nor prediction needs the text
encoder. Needs the package transformers.

With -o instead of -d the sentences of --prompt are written to a file, with which a trained network can be
asked in other words: nnUNet_ssl_prompts=FILE nnUNetv2_predict ...
"""

from __future__ import annotations

import argparse

HELP = "embed a dataset's sentences for nnUNetTrainerProPL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``nnUNetv2_ssl embed-prompts``."""
    parser.add_argument("-d", metavar="ID", help="dataset number or name")
    parser.add_argument(
        "--model", required=True, metavar="NAME_OR_FOLDER", help="a BERT-like model: folder, or name on a hub"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=24,
        metavar="L",
        help="length to which sentences are padded (default: %(default)s)",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="LABEL=SENTENCE",
        help="sentence of a label, kept in dataset.json; may be repeated",
    )
    parser.add_argument("-o", metavar="FILE", help="write an .npz for prediction instead of a dataset")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run model code that comes with the model"
    )


def run(args: argparse.Namespace) -> None:
    """Embed, store, and print the sentences.

    Raises:
        ConfigError: both or neither of -d and -o, or a malformed --prompt.
    """
    from pathlib import Path

    from nnunet_ssl.conversion import prompt_embedding as prompts
    from nnunet_ssl.errors import ConfigError
    from nnunet_ssl.json_files import read_json
    from nnunet_ssl.tables import format_table
    from nnunet_ssl.tasks import TaskTable

    if (args.d is None) == (args.o is None):
        raise ConfigError("Expected a dataset (-d) or a file to write (-o), one of them.")
    given = parse_sentences(args.prompt)
    if args.o is not None:
        if not given:
            raise ConfigError("-o needs at least one --prompt LABEL=SENTENCE.")
        written = [Path(args.o)]
        if not written[0].parent.is_dir():
            raise ConfigError(f"-o: there is no folder {written[0].parent}. Make it first.")
        embedding = prompts.embed(given, args.model, args.max_tokens, args.trust_remote_code)
        embedding.save(written[0])
    else:
        folders = prompts.dataset_folders(args.d)
        content = prompts.with_sentences(read_json(folders[0] / "dataset.json"), given)
        table = TaskTable.from_dataset_json(content)
        sentences = dict(zip([p.label for p in table.prompts], table.sentences(), strict=True))
        embedding = prompts.embed(sentences, args.model, args.max_tokens, args.trust_remote_code)
        written = [f / prompts.FILE for f in prompts.store(embedding, folders, given)]
    print(format_table(embedding.rows(), ["label", "sentence", "tokens", "most alike", "cosine"]))
    print(f"{embedding.shape.width} values per token from {embedding.model}. Wrote:", *written, sep="\n  ")


def parse_sentences(items: list[str]) -> dict[str, str]:
    """Read ``LABEL=SENTENCE`` items.

    Raises:
        ConfigError: an item is malformed, or a label is given twice.
    """
    from nnunet_ssl.errors import ConfigError

    sentences: dict[str, str] = {}
    for item in items:
        label, equals, sentence = (part.strip() for part in item.partition("="))
        if not equals or not label or not sentence:
            raise ConfigError(f"--prompt: expected LABEL=SENTENCE, got '{item}'.")
        if label in sentences:
            raise ConfigError(f"--prompt: {label} is given twice. Give it once.")
        sentences[label] = sentence
    return sentences
