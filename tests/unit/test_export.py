"""Export: which networks are stock, what one task's labels and weights become, what the command refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn

from nnunet_ssl.commands.export import CHECKPOINT, model_folder, prediction_commands
from nnunet_ssl.errors import ConfigError, DataError, TaskError
from nnunet_ssl.inference.choice import choose
from nnunet_ssl.inference.export import Source, export_model, find_folds, load_checkpoint
from nnunet_ssl.inference.exported import (
    Description,
    as_prompted,
    as_stock,
    cut_channels,
    cut_labels,
    is_stock,
    state_shapes,
)
from nnunet_ssl.inference.prompts import restrict_output
from nnunet_ssl.nn.ema import TEACHER, teacher_and_student
from nnunet_ssl.nn.multi_decoder import for_inference
from nnunet_ssl.tasks import TaskTable
from tests.unit.toy import SHAPES, SPACES, prompted_network, stock_network

TASKS = [
    {"name": "Heart", "labels": ["atrium", "wall"], "prefix": "Heart_"},
    {"name": "Brain", "labels": ["front", "back"], "prefix": "Brain_"},
]
CLASSES = {
    "labels": {"background": 0, "atrium": 1, "front": 2, "back": 3, "wall": 4},
    "file_ending": ".nii.gz",
    "channel_names": {"0": "MRI"},
    "nnunet_ssl": {"tasks": TASKS},
}
REGIONS = {
    "labels": {"background": 0, "atrium": [1, 4], "wall": 4, "front": [2, 3], "back": 3, "ignore": 5},
    "regions_class_order": [1, 4, 2, 3],
    "file_ending": ".nii.gz",
    "nnunet_ssl": {"tasks": TASKS},
}
PLANS = {
    "plans_name": "nnUNetPlans",
    "dataset_name": "Dataset903_Both",
    "configurations": {"2d": {}},
    "nnunet_ssl": {"options": {"warmup": 0.1}, "labels": {}, "tasks": TASKS},
}
ORIGINAL = Description("nnUNetTrainerMeanTeacher", "2d", PLANS, CLASSES)


def cut(dataset_json, wish):
    table = TaskTable.from_dataset_json(dataset_json)
    return cut_labels(dataset_json, table, table.resolve(wish))


# Labels


def test_labels_are_numbered_anew_in_channel_order():
    brain = cut(CLASSES, "Brain")
    assert brain["labels"] == {"background": 0, "front": 1, "back": 2}
    assert "nnunet_ssl" not in brain and brain["channel_names"] == {"0": "MRI"}
    assert cut(CLASSES, "heart")["labels"] == {"background": 0, "atrium": 1, "wall": 2}
    assert cut(CLASSES, "wall")["labels"] == {"background": 0, "wall": 1}
    assert CLASSES["labels"]["wall"] == 4


def test_the_ignore_label_follows_the_last():
    labels = {**CLASSES["labels"], "ignore": 5}
    assert cut({**CLASSES, "labels": labels}, "Brain")["labels"]["ignore"] == 3


def test_regions_keep_their_order_of_writing():
    brain, heart = cut(REGIONS, "Brain"), cut(REGIONS, "Heart")
    assert brain["labels"] == {"background": 0, "front": [1, 2], "back": [2], "ignore": 3}
    assert brain["regions_class_order"] == [1, 2]
    assert heart["labels"] == {"background": 0, "atrium": [1, 2], "wall": [2], "ignore": 3}


@pytest.mark.parametrize("wish", ["back", "wall"])
def test_a_region_of_one_value_stays_a_region_for_nnunet(wish):
    alone = cut(REGIONS, wish)
    assert alone["labels"] == {"background": 0, wish: [1, 1], "ignore": 2}
    manager = LabelManager(alone["labels"], alone["regions_class_order"])
    assert manager.has_regions and manager.num_segmentation_heads == 1
    written = manager.convert_logits_to_segmentation(torch.tensor([[[-1.0, 2.0]]]))
    assert written.tolist() == [[0, 1]]
    assert TaskTable.from_dataset_json(alone).has_regions


@pytest.mark.parametrize("dataset_json", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("wish", ["Heart", "Brain", "front", "wall"])
def test_nnunet_writes_the_same_voxels(dataset_json, wish):
    """Where the full model, restricted to the task, writes a label, the cut one writes its new value."""
    table = TaskTable.from_dataset_json(dataset_json)
    full = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    described = as_stock(replace(ORIGINAL, dataset_json=dataset_json), wish)
    new = described.dataset_json
    small = LabelManager(new["labels"], new.get("regions_class_order"))
    assert small.num_segmentation_heads == len(described.channels)
    logits = 3 * torch.randn(full.num_segmentation_heads, 8, 9, generator=torch.Generator().manual_seed(0))
    restricted = torch.full_like(logits, -99)
    restricted[list(described.channels)] = logits[list(described.channels)]
    before = full.convert_logits_to_segmentation(restricted)
    after = small.convert_logits_to_segmentation(logits[list(described.channels)])
    old = sorted({int(v) for v in before.unique()} - {0})
    assert old and len(old) == len({int(v) for v in after.unique()} - {0})
    for number, value in enumerate(old, start=1):
        assert torch.equal(before == value, after == number)
    assert [p.label for k, p in enumerate(table.prompts) if k in table.resolve(wish)] == list(
        described.labels
    )


# Weights


@pytest.mark.parametrize("residual", [False, True])
def test_one_task_of_a_network_is_the_same_network(residual):
    full, small = (stock_network(n, residual=residual, seed=n).eval() for n in (5, 3))
    weights = cut_channels(full.state_dict(), state_shapes(small), [0, 2, 4])
    small.load_state_dict(weights)
    x = torch.randn(2, 1, *SHAPES[2])
    for a, b in zip(full(x), small(x), strict=True):
        torch.testing.assert_close(a[:, [0, 2, 4]], b)
    cut = {k for k, w in weights.items() if w.shape != full.state_dict()[k].shape}
    assert cut == {f"decoder.seg_layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")}


def test_a_network_that_does_not_split_by_label_is_refused():
    wide = {"layer.weight": torch.zeros(8, 4)}
    with pytest.raises(ConfigError, match=r"layer\.weight.*without --task"):
        cut_channels(wide, {"layer.weight": torch.Size([3, 5])}, [0, 2, 4])


def on_meta(*args, **kwargs):
    with torch.device("meta"):
        return stock_network(*args, **kwargs)


def test_stock_is_what_differs_in_weights_only():
    assert is_stock(stock_network(3, seed=4), on_meta(3))
    assert is_stock(for_inference(stock_network(3)), on_meta(3))
    assert is_stock(stock_network(3, residual=True), on_meta(3, residual=True))


def test_anything_else_is_not_stock():
    assert not is_stock(stock_network(4), on_meta(3))
    assert not is_stock(stock_network(3, residual=True), on_meta(3))
    assert not is_stock(prompted_network(SPACES["classes"]), on_meta(4))
    assert not is_stock(teacher_and_student(stock_network(3), stock_network(3), TEACHER), on_meta(3))
    hooked = stock_network(3)
    restrict_output(hooked, torch.tensor([True, False, True]))
    assert not is_stock(hooked, on_meta(3))
    other = stock_network(3)
    other.encoder.stages[0][0].convs[0].nonlin = nn.ReLU()  # same names and shapes, other function
    other.encoder.stages[0][0].convs[0].all_modules[-1] = nn.ReLU()
    assert state_shapes(other) == state_shapes(on_meta(3))
    assert not is_stock(other, on_meta(3))


# Descriptions


def test_all_labels_of_a_stock_network():
    made = as_stock(ORIGINAL, None)
    assert made.identifier == "Dataset903_Both/nnUNetTrainer__nnUNetPlans_MeanTeacher__2d"
    assert made.dataset_json == CLASSES  # with the tasks, which `evaluate` reads
    assert "nnunet_ssl" not in made.plans and made.channels is None
    assert made.labels == {"atrium": 1, "front": 2, "back": 3, "wall": 4}
    assert "nnunet_ssl" in PLANS and PLANS["plans_name"] == "nnUNetPlans"


def test_one_task_of_a_stock_network():
    made = as_stock(ORIGINAL, "Brain")
    assert made.identifier == "Dataset903_Both/nnUNetTrainer__nnUNetPlans_MeanTeacher_Brain__2d"
    assert made.channels == (0, 2, 3)
    assert made.labels == {"front": 1, "back": 2}
    regions = as_stock(replace(ORIGINAL, dataset_json=REGIONS), "Brain")
    assert regions.channels == (2, 3)


def test_stock_nnunet_keeps_its_name():
    assert as_stock(replace(ORIGINAL, trainer="nnUNetTrainer"), None).plans["plans_name"] == "nnUNetPlans"
    slower = as_stock(replace(ORIGINAL, trainer="nnUNetTrainer_250epochs"), None)
    assert slower.plans["plans_name"] == "nnUNetPlans_250epochs"


def test_names_stay_legible_to_nnunet():
    tasks = [{**TASKS[0], "name": "left  atrium/__x"}, TASKS[1]]
    odd = replace(ORIGINAL, dataset_json={**CLASSES, "nnunet_ssl": {"tasks": tasks}})
    made = as_stock(odd, "left  atrium/__x")
    assert made.identifier.split("/")[1].split("__") == [
        "nnUNetTrainer", "nnUNetPlans_MeanTeacher_left-atrium-_x", "2d",
    ]  # fmt: skip


def test_a_prompted_model_keeps_trainer_and_values_and_gets_a_wish():
    original = replace(ORIGINAL, trainer="nnUNetTrainerVerSemi")
    assert as_prompted(original, None) is original
    made = as_prompted(original, "Brain")
    assert made.identifier == "Dataset903_Both/nnUNetTrainerVerSemi__nnUNetPlans_Brain__2d"
    assert made.plans["nnunet_ssl"] == {**PLANS["nnunet_ssl"], "task": "Brain"}
    assert made.dataset_json == CLASSES and made.channels is None
    assert made.labels == {"front": 2, "back": 3}
    assert "task" not in PLANS["nnunet_ssl"]


# Options of prediction


@pytest.mark.parametrize(
    ("trainer", "setting", "network", "value"),
    [
        ("nnUNetTrainerDBiSL", {"inference_branches": "mean"}, "dbisl", {"inference_branches": "mean"}),
        ("nnUNetTrainerProPL", {"propl_decoder": "sd"}, "propl", {"inference": "sd"}),
    ],
)
def test_a_trained_model_can_predict_another_way(trainer, setting, network, value):
    made = choose(replace(ORIGINAL, trainer=trainer), setting)
    block = made.plans["nnunet_ssl"]
    assert made.plans["plans_name"] == f"nnUNetPlans_{next(iter(setting.values()))}"
    assert block["options"] == {"warmup": 0.1, **setting}
    assert value.items() <= block[network].items()
    assert block["tasks"] == TASKS and network not in PLANS["nnunet_ssl"]
    assert PLANS["plans_name"] == "nnUNetPlans"


@pytest.mark.parametrize(
    ("trainer", "setting", "message"),
    [
        ("nnUNetTrainerDBiSL", {"weight_pseudo": "0"}, "can set inference_branches, for prediction"),
        ("nnUNetTrainerDBiSL", {"inference_branches": "second"}, "'second'"),
        ("nnUNetTrainerMeanTeacher", {"propl_decoder": "sd"}, "can set nothing"),
        ("nnUNetTrainer", {"propl_decoder": "sd"}, "can set nothing"),
        ("nnUNetTrainerNowhere", {"propl_decoder": "sd"}, "finds no trainer nnUNetTrainerNowhere"),
    ],
)
def test_only_options_of_prediction(trainer, setting, message):
    with pytest.raises(ConfigError, match=message):
        choose(replace(ORIGINAL, trainer=trainer), setting)


# Bad input


@pytest.fixture
def folder(tmp_path):
    """A model folder with two folds; no network in it."""
    model = tmp_path / "nnUNetTrainerMeanTeacher__nnUNetPlans__2d"
    for fold in ("0", "10", "2", "all"):
        (model / f"fold_{fold}").mkdir(parents=True)
        (model / f"fold_{fold}" / "checkpoint_final.pth").write_bytes(b"nonsense")
    (model / "fold_3").mkdir()
    (model / "fold_3" / "checkpoint_latest.pth").write_bytes(b"")
    (model / "plans.json").write_text(json.dumps(PLANS))
    (model / "dataset.json").write_text(json.dumps(CLASSES))
    return model


def test_finished_folds_in_order(folder):
    assert find_folds(folder, None, "checkpoint_final.pth") == ("0", "2", "10")
    assert find_folds(folder, ["2", "all"], "checkpoint_final.pth") == ("2", "all")
    for fold in ("0", "2", "10"):
        (folder / f"fold_{fold}" / "checkpoint_final.pth").unlink()
    assert find_folds(folder, None, "checkpoint_final.pth") == ("all",)


@pytest.mark.parametrize(
    ("folds", "checkpoint", "message"),
    [
        (["3"], "checkpoint_final.pth", r"fold\(s\) 3 .*fold_3/checkpoint_latest\.pth"),
        (["0", "7", "8"], "checkpoint_final.pth", r"fold\(s\) 7, 8 "),
        (None, "checkpoint_best.pth", "any fold.*fold_0/checkpoint_final"),
    ],
)
def test_missing_folds_and_checkpoints(folder, folds, checkpoint, message):
    with pytest.raises(DataError, match=message):
        find_folds(folder, folds, checkpoint)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04nonsense"])
def test_broken_checkpoint(folder, content):
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(content)
    with pytest.raises(DataError, match="fold_0/checkpoint_final.pth cannot be read"):
        load_checkpoint(Source(folder, ("0",), "checkpoint_final.pth"), "0")


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"network_weights": {}, "init_args": {}}])
def test_other_files_are_no_checkpoint(folder, content):
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(DataError, match="lacks .*trainer_name"):
        load_checkpoint(Source(folder, ("0",), "checkpoint_final.pth"), "0")


def save_checkpoint(folder, trainer="nnUNetTrainerNowhere"):
    content = {"network_weights": {}, "init_args": {"configuration": "2d"}, "trainer_name": trainer}
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_output_exists(folder, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} exists already"):
        export_model(Source(folder, ("0",), "checkpoint_final.pth"), tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


def test_unknown_task_lists_what_there_is(folder, tmp_path):
    save_checkpoint(folder)
    source = Source(folder, ("0",), "checkpoint_final.pth", "liver")
    with pytest.raises(TaskError, match=r"'liver'.*Heart \(labels: atrium, wall\); Brain"):
        export_model(source, tmp_path / "out")


def test_unknown_trainer(folder, tmp_path):
    save_checkpoint(folder)
    plans = {**PLANS, "configurations": {"2d": {"architecture": {}}}}
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ConfigError, match="nnUNetTrainerNowhere"):
        export_model(Source(folder, ("0",), "checkpoint_final.pth"), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [folder.name]


@pytest.mark.parametrize("missing", ["plans.json", "dataset.json"])
def test_incomplete_model_folder(folder, tmp_path, missing):
    (folder / missing).unlink()
    with pytest.raises(DataError, match=missing):
        export_model(Source(folder, ("0",), "checkpoint_final.pth"), tmp_path / "out")


def test_model_is_named_in_one_way(folder):
    assert model_folder(None, None, None, "nnUNetPlans", folder) == folder
    for given in [
        ("1", "2d", None, "nnUNetPlans", None),
        ("1", "2d", "T", "nnUNetPlans", folder),
        (None, None, None, "nnUNetPlans", None),
    ]:
        with pytest.raises(ConfigError, match="-d, -c and -tr.*-m"):
            model_folder(*given)
    with pytest.raises(DataError, match=r"no plans\.json"):
        model_folder(None, None, None, "nnUNetPlans", folder.parent)


def test_models_of_the_dataset_are_listed(folder, monkeypatch, tmp_path):
    results = tmp_path / "results" / "Dataset903_Both"
    results.mkdir(parents=True)
    folder.rename(results / folder.name)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(results.parent))
    found = model_folder("903", "2d", "nnUNetTrainerMeanTeacher", "nnUNetPlans", None)
    assert found == results / folder.name
    with pytest.raises(DataError, match=f"Models of the dataset: {folder.name}"):
        model_folder("903", "2d", "nnUNetTrainerBCP", "nnUNetPlans", None)
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(DataError, match="nnUNet_results is not set"):
        model_folder("903", "2d", "nnUNetTrainerBCP", "nnUNetPlans", None)


def test_printed_commands_can_be_pasted(tmp_path):
    made = Description("nnUNetTrainer", "2d", {"plans_name": "small", "dataset_name": "Dataset903_Both"}, {})
    (folder,) = prediction_commands(tmp_path / "my model", made, ("0", "1"), "checkpoint_best.pth")
    assert folder == (
        f"nnUNetv2_predict_from_modelfolder -i IN -o OUT -m '{tmp_path}/my model' -f 0 1 "
        "-chk checkpoint_best.pth"
    )
    assert prediction_commands(tmp_path / "my model.zip", made, ("all",), CHECKPOINT) == [
        f"nnUNetv2_install_pretrained_model_from_zip '{tmp_path}/my model.zip'",
        "nnUNetv2_predict -i IN -o OUT -d Dataset903_Both -c 2d -p small -tr nnUNetTrainer -f all",
    ]
