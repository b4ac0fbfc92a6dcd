"""ProPL by stock commands: sentences, several tasks in 2D and 3D, prediction of one task, resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_ssl.conversion.prompt_embedding import FILE, PromptEmbedding, store
from nnunet_ssl.errors import ConfigError, DataError, TaskError
from nnunet_ssl.tasks import TaskTable
from tests.integration.conftest import Workspace, make_dataset, write_scan
from tests.integration.test_trainers import edited, extra_file, losses

pytestmark = pytest.mark.integration

TRAINER = "nnUNetTrainerProPL"
US, FLAT, BOTH, REGIONS = "Dataset913_US", "Dataset904_Flat", "Dataset903_Both", "Dataset905_Regions"


@pytest.fixture(scope="session")
def ultrasound(workspace: Workspace) -> Workspace:
    """Dataset913: two 2D tasks of PNG images of different sizes, one with two labels."""
    raw = workspace.root / "raw"
    make_dataset(raw, "Dataset911_Heart", (32, 32), {"background": 0, "heart": 1}, ending=".png")
    make_dataset(raw, "Dataset912_Neck", (40, 48), {"background": 0, "nerve": 1, "vessel": 2}, ending=".png")
    workspace.run("nnUNetv2_ssl", "merge", "-d", 911, 912, "-o", 913, "-n", "US")
    plan = ("nnUNetv2_plan_and_preprocess", "-np", 1, "-npfp", 1, "-d", 913, "-c", "2d")
    workspace.run(*plan, nnUNet_n_proc_DA="1")
    workspace.run("nnUNetv2_ssl", "split", "-d", 913, "--labeled", 2, "--val", "0.34")
    workspace.configure(913, "small", "patch_size=32,32", "preview_every=1", configuration="2d")
    return workspace


def table_of(work: Workspace, dataset: str) -> TaskTable:
    return TaskTable.from_dataset_json(json.loads((work.preprocessed(dataset) / "dataset.json").read_text()))


def embedding(table: TaskTable, width: int = 6, seed: int = 0) -> PromptEmbedding:
    """Token vectors as a text encoder of that width gives them."""
    draw, count = np.random.default_rng(seed), len(table.prompts)
    return PromptEmbedding(
        labels=tuple(p.label for p in table.prompts),
        sentences=tuple(table.sentences()),
        tokens=draw.normal(size=(count, 12, width)).astype(np.float32),
        mask=np.arange(12) < np.full((count, 1), 10),
        model="tiny",
        digest="0123456789abcdef",
    )


@pytest.fixture
def embedded(ultrasound: Workspace) -> Any:
    """Dataset913 with embedded sentences for the time of a test."""
    folders = [ultrasound.root / root / US for root in ("raw", "preprocessed")]
    before = [(f / "dataset.json").read_text() for f in folders]
    store(embedding(table_of(ultrasound, US)), folders, {})
    yield ultrasound
    for folder, content in zip(folders, before, strict=True):
        (folder / "dataset.json").write_text(content)
        (folder / FILE).unlink(missing_ok=True)


def labels_in(folder: Path) -> dict[str, set[int]]:
    files = sorted(folder.glob("*.png")) or sorted(folder.glob("*.nii.gz"))
    return {f.name: set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(f)))).tolist()) for f in files}


# Stock commands, from sentences to masks


def test_from_sentences_to_masks(embedded: Workspace) -> None:
    work, fold = embedded, embedded.fold(US, TRAINER, "small", "2d")
    work.train(913, "2d", 0, "-tr", TRAINER, "-p", "small")
    log = next(fold.glob("training_log_*.txt")).read_text()
    assert "sentences embedded with tiny: Segment the heart in the Heart image.; Segment the nerve" in log
    assert "uncertainty" in log
    assert {p.name for p in (fold / "previews").iterdir()} == {"epoch_0001.png", "epoch_0002.png"}
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert sorted(summary["mean"]) == ["1", "2", "3"]
    per_case = {Path(c["prediction_file"]).name[0]: c["metrics"] for c in summary["metric_per_case"]}
    assert {k: sorted(v) for k, v in per_case.items()} == {"H": ["1"], "N": ["2", "3"]}

    # The trained model travels without the dataset's embedding.
    (work.preprocessed(US) / FILE).unlink()
    (work.root / "raw" / US / FILE).unlink()
    images, out = work.root / "raw" / "Dataset911_Heart" / "imagesTs", work.root / "predictions"
    predict = (
        "nnUNetv2_predict",
        "-d",
        913,
        "-i",
        images,
        "-f",
        0,
        "-c",
        "2d",
        "-tr",
        TRAINER,
        "-p",
        "small",
    )
    predict = (*predict, "-device", "cpu", "-npp", 1, "-nps", 1)
    refused = work.run(*predict, "-o", out / "none", check=False)
    assert refused.returncode != 0
    assert "Known tasks: Heart (labels: heart); Neck (labels: nerve, vessel)" in refused.stderr
    work.run(*predict, "-o", out / "heart", nnUNet_ssl_task="Heart")
    work.run(*predict, "-o", out / "neck", nnUNet_ssl_task="neck")
    assert all(found <= {0, 1} for found in labels_in(out / "heart").values())
    assert all(found <= {0, 2, 3} for found in labels_in(out / "neck").values())
    assert len(labels_in(out / "heart")) == 2

    # Other words for a known label, and for an unknown one.
    table = table_of(work, US)
    whole = embedding(table, seed=1)
    for label, row in (("heart", 0), ("kidney", 1)):
        part = PromptEmbedding(
            (label,), ("Find it.",), whole.tokens[row : row + 1], whole.mask[:1], whole.model, whole.digest
        )
        part.save(out / f"{label}.npz")
    new = {"nnUNet_ssl_task": "Heart", "nnUNet_ssl_prompts": str(out / "heart.npz")}
    work.run(*predict, "-o", out / "other_words", "--save_probabilities", **new)
    work.run(*predict, "-o", out / "same_words", "--save_probabilities", nnUNet_ssl_task="Heart")
    one, other = (np.load(out / n / "t0.npz")["probabilities"] for n in ("other_words", "same_words"))
    assert np.abs(one - other).max() > 1e-3
    unseen = {"nnUNet_ssl_task": "kidney", "nnUNet_ssl_prompts": str(out / "kidney.npz")}
    refused = work.run(*predict, "-o", out / "unseen", check=False, **unseen)
    assert refused.returncode != 0 and "nnUNet_ssl_unseen=1" in refused.stderr
    answered = work.run(*predict, "-o", out / "unseen", nnUNet_ssl_unseen="1", **unseen)
    assert "'kidney' was never trained" in answered.stdout
    assert all(found <= {0, 1} for found in labels_in(out / "unseen").values())


def test_several_tasks_in_3d_resumed(workspace: Workspace) -> None:
    """Learned tokens; --c after a kill continues with the same losses."""
    work, fold = workspace, workspace.fold(BOTH, TRAINER, "small")
    work.train(903, "3d_fullres", 0, "-tr", TRAINER, "-p", "small")
    logs = sorted(fold.glob("training_log_*.txt"))
    assert "learned token vectors" in logs[0].read_text()
    predict = ("nnUNetv2_predict", "-d", 903, "-f", 0, "-c", "3d_fullres", "-tr", TRAINER, "-p", "small")
    images, out = work.root / "raw" / "Dataset902_Two" / "imagesTs", work.root / "predictions_3d"
    options = ("-i", images, "-o", out, "-device", "cpu", "-npp", 1, "-nps", 1)
    work.run(*predict, *options, nnUNet_ssl_task="Two")
    assert len(labels_in(out)) == 2
    assert all(found <= {0, 2, 3} for found in labels_in(out).values())


# Trainers in this process


@pytest.mark.parametrize(
    ("dataset", "configuration"), [(US, "2d"), (FLAT, "2d"), (BOTH, "3d_fullres"), (REGIONS, "3d_fullres")]
)
def test_every_kind_of_dataset(
    ultrasound: Workspace, make_trainer: Any, dataset: str, configuration: str
) -> None:
    made = make_trainer(dataset, TRAINER, configuration=configuration)
    outputs = losses(made, 2)
    assert all(np.isfinite(value) for output in outputs for value in output.values())
    made.on_validation_epoch_start()
    made.network.eval()
    with torch.no_grad():
        output = made.validation_step(next(made.dataloader_val))
    assert np.isfinite(output["loss"])
    assert output["tp_hard"].shape == (len(made.task_table.prompts),)
    assert made.network.asked is None  # nothing is left of the restriction


@pytest.mark.parametrize("decoder", ["sd", "mean"])
def test_decoder_of_prediction(
    ultrasound: Workspace, make_trainer: Any, monkeypatch: Any, decoder: str
) -> None:
    plans = ultrasound.preprocessed(US) / "small.json"
    with edited(plans, lambda p: p["nnunet_ssl"]["options"].update(propl_decoder=decoder)):
        made = make_trainer(US, TRAINER, configuration="2d")
        losses(made, 1)
    made.network.eval()
    made.network.decoder.deep_supervision = False
    images = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = made.network(images)
        monkeypatch.setenv("nnUNet_ssl_task", "Neck")
        managers = made.plans_manager, made.configuration_manager
        rebuilt = type(made).build_network_architecture(*managers, 1, 4, enable_deep_supervision=False)
        rebuilt.load_state_dict(made.network.state_dict())
        output = rebuilt.eval()(images)
    torch.testing.assert_close(output[:, 2:], expected[:, 2:])
    assert (output[:, 1] < -40).all()
    assert len(rebuilt.state_dict()) < len(made.network.state_dict()) or decoder == "mean"


def test_timm_encoder(ultrasound: Workspace, make_trainer: Any) -> None:
    def edit(plans: Any) -> None:
        plans["nnunet_ssl"]["options"].update(timm_encoder="convnext_atto")
        configuration = plans["configurations"]["2d"]
        configuration["patch_size"] = [64, 64]
        arch = configuration["architecture"]["arch_kwargs"]
        arch.update(n_stages=6, features_per_stage=[4] * 6, strides=[[1, 1]] + [[2, 2]] * 5)
        arch.update(kernel_sizes=[[3, 3]] * 6, n_conv_per_stage=[1] * 6, n_conv_per_stage_decoder=[1] * 5)

    with edited(ultrasound.preprocessed(US) / "small.json", edit):
        made = make_trainer(US, TRAINER, configuration="2d")
        outputs = losses(made, 1)
        assert np.isfinite(outputs[0]["loss"])
        made.network.eval()
        with torch.no_grad():
            assert np.isfinite(made.validation_step(next(made.dataloader_val))["loss"])
    with edited(
        ultrasound.preprocessed(US) / "small.json",
        lambda p: p["nnunet_ssl"]["options"].update(timm_encoder="convnext_atto"),
    ):
        with pytest.raises(ConfigError, match="patch_size"):
            make_trainer(US, TRAINER, configuration="2d").initialize()


# Bad input, each before training


def test_unlabelled_case_of_unknown_task(ultrasound: Workspace, make_trainer: Any) -> None:
    stray = ultrasound.root / "raw" / US / "imagesUn" / "stray_0000.png"
    picture = np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8)
    with extra_file(stray, lambda f: write_scan(f, picture)), pytest.raises(TaskError, match="stray"):
        losses(make_trainer(US, TRAINER, configuration="2d"), 1)
    losses(make_trainer(US, TRAINER, configuration="2d"), 1)


def test_text_prompts_without_embedding(ultrasound: Workspace, make_trainer: Any) -> None:
    plans = ultrasound.preprocessed(US) / "small.json"
    with edited(plans, lambda p: p["nnunet_ssl"]["options"].update(propl_prompts="text")):
        with pytest.raises(ConfigError, match="embed-prompts"):
            make_trainer(US, TRAINER, configuration="2d")


def test_no_prompting_needs_one_label_per_task(ultrasound: Workspace, make_trainer: Any) -> None:
    def edit(plans: Any) -> None:
        plans["nnunet_ssl"]["options"].update(propl_prompts="off")

    with edited(ultrasound.preprocessed(US) / "small.json", edit):
        with pytest.raises(ConfigError, match=r"Neck \(nerve, vessel\)"):
            make_trainer(US, TRAINER, configuration="2d")
    with edited(ultrasound.preprocessed(FLAT) / "small.json", edit):
        losses(make_trainer(FLAT, TRAINER, configuration="2d"), 1)


def test_missing_and_stale_embedding(embedded: Workspace, make_trainer: Any) -> None:
    folder = embedded.preprocessed(US)
    losses(make_trainer(US, TRAINER, configuration="2d"), 1)

    def edit(content: Any) -> None:
        content["nnunet_ssl"]["tasks"][0]["prompts"] = {"heart": "Segment another thing."}

    with edited(folder / "dataset.json", edit), pytest.raises(DataError, match="heart are not those"):
        make_trainer(US, TRAINER, configuration="2d").initialize()
    embedding(table_of(embedded, US), width=7).save(folder / FILE)
    with pytest.raises(DataError, match="not what dataset.json describes"):
        make_trainer(US, TRAINER, configuration="2d").initialize()
    (folder / FILE).unlink()  # the raw folder's still serves
    make_trainer(US, TRAINER, configuration="2d").initialize()
    (embedded.root / "raw" / US / FILE).unlink()
    with pytest.raises(DataError, match="neither in its"):
        make_trainer(US, TRAINER, configuration="2d").initialize()


def test_supervised_form_never_loads_unlabelled_data(ultrasound: Workspace, make_trainer: Any) -> None:
    plans = ultrasound.preprocessed(US) / "small.json"
    with edited(plans, lambda p: p["nnunet_ssl"]["options"].update(weight_unlabeled=0.0)):
        made = make_trainer(US, TRAINER, configuration="2d")
        outputs = losses(made, 1)
    assert made._last_batch.unlabeled is None
    assert [k for k in outputs[0] if "unlabeled" in k] == []
    assert "pd" not in made.network.prompted["seg_layers"]
