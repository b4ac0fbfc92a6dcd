"""Splits: nested, stratified, whole groups, and every request that cannot be met."""

import json
from argparse import ArgumentParser
from collections import Counter
from types import SimpleNamespace

import pytest

from nnunet_ssl.commands import split as command
from nnunet_ssl.conversion.split import (
    Cases,
    SplitRequest,
    count_notes,
    count_rows,
    load_cases,
    make_folds_of_shares,
    make_splits,
    parse_case_list,
    parse_labeled,
    write_splits,
)
from nnunet_ssl.errors import ConfigError, DataError, TaskError

ONE_TASK = Cases({f"case_{i:02d}": 0 for i in range(20)}, ["Heart"])
TWO_TASKS = Cases(
    {f"Heart_{i:02d}": 0 for i in range(20)} | {f"Liver_{i:02d}": 1 for i in range(11)}, ["Heart", "Liver"]
)
# Patients with 1, 2 or 3 frames.
FRAMES = Cases({f"patient{p:02d}_frame{f}": 0 for p in range(18) for f in range(p % 3 + 1)}, ["Cine"])
# By hand: sha256sum of "0/validation/case_00" and so on, sorted, the first 4.
VAL = ["case_00", "case_02", "case_05", "case_10"]
TRAIN = ["case_04", "case_13", "case_16"]
PATIENT = r"(patient\d+)"


def parts(fold):
    return [set(fold[key]) for key in ("train", "unlabeled", "val")]


@pytest.mark.parametrize(
    ("cases", "request_"),
    [
        (ONE_TASK, SplitRequest(labeled=4)),
        (ONE_TASK, SplitRequest(labeled=0.25, val=0.2)),
        (TWO_TASKS, SplitRequest(labeled=3, seed=7)),
        (FRAMES, SplitRequest(labeled=5, group_regex=PATIENT)),
        (ONE_TASK, SplitRequest(val=0.3, labeled_cases=("case_00", "case_01"))),
    ],
)
def test_each_fold_parts_the_cases(cases, request_):
    for fold in make_splits(cases, request_):
        assert list(fold) == ["train", "val", "unlabeled"]
        assert all(fold[key] == sorted(fold[key]) for key in fold)
        assert Counter(case for key in fold for case in fold[key]) == Counter(list(cases.task_of))


def test_five_folds_validate_every_case_once():
    folds = make_splits(ONE_TASK, SplitRequest(labeled=4))
    assert len(folds) == 5
    assert Counter(case for fold in folds for case in fold["val"]) == Counter(list(ONE_TASK.task_of))
    assert [len(fold["val"]) for fold in folds] == [4] * 5
    assert [len(fold["train"]) for fold in folds] == [4] * 5


@pytest.mark.parametrize(
    ("cases", "options"),
    [
        (ONE_TASK, {}),
        (ONE_TASK, {"val": 0.2}),
        (TWO_TASKS, {}),
        (FRAMES, {"group_regex": PATIENT, "folds": 3}),
    ],
)
def test_labelled_sets_are_nested_and_validation_stays(cases, options):
    wanted = [1, 2, 3, 4, 6, 8, 0.99, 1.0]
    by_number = [make_splits(cases, SplitRequest(labeled=n, seed=3, **options)) for n in wanted]
    for fewer, more in zip(by_number, by_number[1:], strict=False):
        for one, other in zip(fewer, more, strict=True):
            assert one["val"] == other["val"]
            assert set(one["train"]) <= set(other["train"])
    assert all(not fold["unlabeled"] for fold in by_number[-1])


def test_the_seed_decides_and_the_folds_differ():
    again = [make_splits(ONE_TASK, SplitRequest(labeled=4, seed=seed)) for seed in (0, 0, 1)]
    assert again[0] == again[1]
    assert again[0] != again[2]
    assert len({tuple(fold["train"]) for fold in again[0]}) > 1


def test_the_split_is_the_same_everywhere():
    """A golden split: users compare numbers across machines and versions."""
    (fold,) = make_splits(ONE_TASK, SplitRequest(labeled=3, val=0.2))
    assert fold["train"] == TRAIN
    assert fold["val"] == VAL


def test_a_new_case_leaves_the_order_of_the_others():
    larger = Cases({**ONE_TASK.task_of, "case_99": 0}, ["Heart"])
    (before,), (after,) = (make_splits(c, SplitRequest(labeled=10, val=0.2)) for c in (ONE_TASK, larger))
    assert len(set(before["train"]) & set(after["train"])) >= 8


def test_every_task_gets_its_number_and_its_share_of_each_fold():
    for fold in make_splits(TWO_TASKS, SplitRequest(labeled=3)):
        assert Counter(TWO_TASKS.task_of[c] for c in fold["train"]) == {0: 3, 1: 3}
        val = Counter(TWO_TASKS.task_of[c] for c in fold["val"])
        assert val[0] == 4 and val[1] in (2, 3)
    (fold,) = make_splits(TWO_TASKS, SplitRequest(labeled=0.5, val=0.2))
    assert Counter(TWO_TASKS.task_of[c] for c in fold["val"]) == {0: 4, 1: 2}
    assert Counter(TWO_TASKS.task_of[c] for c in fold["train"]) == {0: 8, 1: 5}


@pytest.mark.parametrize("labeled", [1, 2, 3, 7, 0.3, 1.0])
@pytest.mark.parametrize("options", [{}, {"val": 0.25}, {"folds": 3}])
def test_groups_are_never_torn(labeled, options):
    for fold in make_splits(FRAMES, SplitRequest(labeled=labeled, group_regex=PATIENT, **options)):
        patients = [{case[:9] for case in part} for part in parts(fold)]
        assert (
            not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]
        )
        assert fold["train"]


def test_groups_meet_the_number_as_nearly_as_possible():
    pairs = Cases({f"patient{p}_frame{f}": 0 for p in range(10) for f in range(2)}, ["Cine"])
    request = SplitRequest(labeled=5, group_regex=PATIENT)
    folds = make_splits(pairs, request)
    assert [len(fold["train"]) for fold in folds] == [4] * 5
    assert (
        count_notes(folds, pairs, request)[0]
        == "Fold 0, Cine: 4 labelled cases, not 5, since groups stay whole."
    )
    one = SplitRequest(labeled=1, group_regex=PATIENT)
    assert [len(fold["train"]) for fold in make_splits(pairs, one)] == [2] * 5


def test_the_whole_match_is_the_group_where_the_regex_has_none():
    with_group, without = (
        make_splits(FRAMES, SplitRequest(labeled=4, group_regex=regex)) for regex in (PATIENT, r"patient\d+")
    )
    assert with_group == without


def test_a_patient_of_two_tasks_stays_whole():
    cases = Cases({f"{task}_p{p}": t for t, task in enumerate(("CT", "MR")) for p in range(10)}, ["CT", "MR"])
    for fold in make_splits(cases, SplitRequest(labeled=3, group_regex=r"_(p\d+)")):
        patients = [{case[3:] for case in part} for part in parts(fold)]
        assert (
            not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]
        )
        assert Counter(cases.task_of[c] for c in fold["train"]) == {0: 3, 1: 3}


def test_named_cases_stay_labelled():
    named = tuple(f"case_{i:02d}" for i in range(8))
    (fold,) = make_splits(ONE_TASK, SplitRequest(val=0.2, labeled_cases=named))
    assert fold["train"] == list(named)
    assert len(fold["val"]) == 4 and not set(fold["val"]) & set(named)


def test_rows_count_what_came_out():
    folds = make_splits(TWO_TASKS, SplitRequest(labeled=4, val=0.2))
    assert count_rows(folds, TWO_TASKS) == [(0, "Heart", 4, 12, 4), (0, "Liver", 4, 5, 2)]


@pytest.mark.parametrize(
    ("cases", "options", "error", "message"),
    [
        (ONE_TASK, {"labeled": 17}, DataError, "--labeled 17: task 'Heart' in fold 0 has 16 training cases"),
        (TWO_TASKS, {"labeled": 10}, DataError, "task 'Liver' in fold 0 has"),
        (
            ONE_TASK,
            {"labeled": 0.01},
            DataError,
            "share of the 16 training cases .* no case at all.*at least 0.0625",
        ),
        (
            ONE_TASK,
            {"group_regex": "(patient)"},
            DataError,
            "'\\(patient\\)' finds no group in case 'case_00'",
        ),
        (ONE_TASK, {"group_regex": "(x*)"}, DataError, "finds no group in case 'case_00'"),
        (ONE_TASK, {"group_regex": "("}, ConfigError, "not a regular expression"),
        (ONE_TASK, {"folds": 21}, DataError, "Task 'Heart' has 20 groups of cases, fewer than the 21 folds"),
        (TWO_TASKS, {"folds": 12}, DataError, "Task 'Liver' has 11 groups of cases, fewer than the 12 folds"),
        (
            FRAMES,
            {"folds": 19, "group_regex": PATIENT},
            DataError,
            "has 18 groups of cases, fewer than the 19 folds",
        ),
        (
            FRAMES,
            {"val": 0.2, "group_regex": "patient"},
            DataError,
            "has 1 group.s. of cases, too few to hold one out",
        ),
        (
            ONE_TASK,
            {"labeled_cases": ("case_00", "x"), "val": 0.2},
            DataError,
            "x is not among the 20 labelled cases",
        ),
        (
            ONE_TASK,
            {"labeled_cases": ("case_00",)},
            DataError,
            "case_00 falls in the validation .* Add --val 0.2",
        ),
        (TWO_TASKS, {"labeled_cases": ("Heart_00",), "val": 0.2}, DataError, "names no case of task Liver"),
        (
            ONE_TASK,
            {"labeled_cases": tuple(ONE_TASK.task_of), "val": 0.2},
            DataError,
            "name fewer --labeled-cases",
        ),
        (
            FRAMES,
            {"labeled_cases": ("patient01_frame0",), "val": 0.2, "group_regex": PATIENT},
            DataError,
            "tears group 'patient01' apart: it names patient01_frame0 but not patient01_frame1",
        ),
    ],
)
def test_what_cannot_be_met_is_said(cases, options, error, message):
    with pytest.raises(error, match=message):
        make_splits(cases, SplitRequest(**{"labeled": 2, **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "--folds: expected at least 2, got 1"),
        ({"val": 0.0}, "--val: expected a share between 0 and 1, got 0.0"),
        ({"val": 1.0}, "--val"),
    ],
)
def test_malformed_requests(options, message):
    with pytest.raises(ConfigError, match=message):
        SplitRequest(**options)


@pytest.mark.parametrize(
    ("text", "value"), [("8", 8), ("1", 1), ("0.1", 0.1), ("all", 1.0), ("ALL", 1.0), ("1.0", 1.0)]
)
def test_labeled_is_a_number_a_share_or_all(text, value):
    parsed = parse_labeled(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("text", ["0", "-3", "0.0", "1.5", "-0.1", "ten", "", "nan", "10%"])
def test_bad_labeled_text(text):
    with pytest.raises(ConfigError, match=f"--labeled: expected a number of cases.*got '{text}'"):
        parse_labeled(text)


def test_case_lists_come_from_commas_or_a_file(tmp_path):
    assert parse_case_list("la_000, la_001,la_000") == ("la_000", "la_001")
    file = tmp_path / "cases.txt"
    file.write_text("la_000\nla_001,la_002\n")
    assert parse_case_list(str(file)) == ("la_000", "la_001", "la_002")
    with pytest.raises(ConfigError, match="got none"):
        parse_case_list(" , ")


# Files


DATASET_JSON = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Empty nnUNet_raw and nnUNet_preprocessed."""
    for name in ("raw", "preprocessed"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnUNet_results", raising=False)
    return tmp_path


def make_dataset(folder, cases, dataset_json=DATASET_JSON, place="imagesTr", suffix="_0000"):
    (folder / place).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    for case in cases:
        (folder / place / f"{case}{suffix}.nii.gz").touch()


def run(*argv):
    parser = ArgumentParser(description=command.__doc__)
    command.add_arguments(parser)
    command.run(parser.parse_args(argv))


def test_cases_come_from_raw(folders):
    make_dataset(folders / "raw" / "Dataset501_Heart", ["b", "a"])
    (folders / "raw" / "Dataset501_Heart" / "imagesTr" / "notes.txt").touch()
    assert list(load_cases(501).task_of) == list(load_cases("Dataset501_Heart").task_of) == ["a", "b"]


def test_cases_come_from_file_lists(folders):
    listed = {"x1": {"images": ["../x.nii.gz"], "label": "../y.nii.gz"}}
    make_dataset(folders / "raw" / "Dataset501_Heart", [], {**DATASET_JSON, "dataset": listed})
    assert list(load_cases(501).task_of) == ["x1"]


@pytest.mark.parametrize("raw_is_set", [True, False])
def test_cases_come_from_the_preprocessed_labels_where_raw_is_absent(folders, monkeypatch, raw_is_set):
    if not raw_is_set:
        monkeypatch.delenv("nnUNet_raw")
    make_dataset(
        folders / "preprocessed" / "Dataset501_Heart", ["b", "a"], place="gt_segmentations", suffix=""
    )
    assert list(load_cases("501").task_of) == ["a", "b"]


def test_tasks_come_from_dataset_json(folders):
    tasks = [{"name": n, "labels": [n.lower()], "prefix": f"{n}_"} for n in ("Heart", "Liver")]
    dataset_json = {
        **DATASET_JSON,
        "labels": {"background": 0, "heart": 1, "liver": 2},
        "nnunet_ssl": {"tasks": tasks},
    }
    make_dataset(folders / "raw" / "Dataset510_Both", ["Heart_1", "Liver_1"], dataset_json)
    assert load_cases(510) == Cases({"Heart_1": 0, "Liver_1": 1}, ["Heart", "Liver"])
    (folders / "raw" / "Dataset510_Both" / "imagesTr" / "Lung_1_0000.nii.gz").touch()
    with pytest.raises(TaskError, match="Lung_1"):
        load_cases(510)


def test_missing_and_empty_datasets(folders):
    with pytest.raises(DataError, match=r"There is no dataset 501\. Searched nnUNet_raw=.*\(not set\)"):
        load_cases(501)
    with pytest.raises(DataError, match="'heart' names no dataset"):
        load_cases("heart")
    make_dataset(folders / "raw" / "Dataset501_Heart", [])
    with pytest.raises(DataError, match="Dataset501_Heart has no labelled cases"):
        load_cases(501)
    make_dataset(folders / "raw" / "Dataset501_Liver", ["a"])
    with pytest.raises(
        DataError, match="Several datasets bear the number 501: Dataset501_Heart, Dataset501_Liver"
    ):
        load_cases(501)


def test_another_split_is_kept_and_the_same_one_left_alone(tmp_path):
    folds = make_splits(ONE_TASK, SplitRequest(labeled=4))
    path, backup, changed = write_splits(tmp_path / "Dataset501_Heart", folds)
    assert (json.loads(path.read_text()), backup, changed) == (folds, None, True)
    assert write_splits(path.parent, folds)[1:] == (None, False)
    path.write_text("[broken")
    assert write_splits(path.parent, folds)[1:] == (path.with_name("splits_final.json.bak-1"), True)
    assert path.with_name("splits_final.json.bak-1").read_text() == "[broken"
    other = make_splits(ONE_TASK, SplitRequest(labeled=5))
    assert write_splits(path.parent, other)[1:] == (path.with_name("splits_final.json.bak-2"), True)
    assert json.loads(path.read_text()) == other
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "splits_final.json",
        "splits_final.json.bak-1",
        "splits_final.json.bak-2",
    ]


def test_the_command_writes_and_tells(folders, capsys):
    make_dataset(folders / "raw" / "Dataset501_Heart", [f"p{i}_f{f}" for i in range(10) for f in range(2)])
    run("-d", "501", "--labeled", "3", "--seed", "1", "--group-regex", r"(p\d)_")
    out = capsys.readouterr().out
    assert "fold  task  labelled  unlabelled  val\n" in out
    assert "   4  all          2          14    4\n" in out
    assert "Fold 4, all: 2 labelled cases, not 3, since groups stay whole" in out
    path = folders / "preprocessed" / "Dataset501_Heart" / "splits_final.json"
    assert [len(fold["train"]) for fold in json.loads(path.read_text())] == [2] * 5
    run("-d", "501", "--labeled-cases", "p0_f0,p0_f1", "--val", "0.2")
    out = capsys.readouterr().out
    assert f"The former split is kept as {path}.bak-1" in out
    assert [fold["train"] for fold in json.loads(path.read_text())] == [["p0_f0", "p0_f1"]]
    run("-d", "501", "--labeled-cases", "p0_f0,p0_f1", "--val", "0.2")
    assert "already holds this split" in capsys.readouterr().out


def test_nnunet_reads_the_file(folders):
    """The stock trainer takes train and val and is not disturbed by the third key."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    make_dataset(folders / "raw" / "Dataset501_Heart", ONE_TASK.task_of)
    run("-d", "501", "--labeled", "4")
    folder = folders / "preprocessed" / "Dataset501_Heart"
    trainer = SimpleNamespace(
        dataset_class=lambda *args, **kwargs: None,
        preprocessed_dataset_folder=str(folder / "nnUNetPlans_3d_fullres"),
        preprocessed_dataset_folder_base=str(folder),
        folder_with_segs_from_previous_stage=None,
        fold=2,
        print_to_log_file=lambda *args: None,
    )
    fold = json.loads((folder / "splits_final.json").read_text())[2]
    assert nnUNetTrainer.do_split(trainer) == (fold["train"], fold["val"])


def test_no_preprocessed_folder(folders, monkeypatch):
    make_dataset(folders / "raw" / "Dataset501_Heart", ONE_TASK.task_of)
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(DataError, match="nnUNet_preprocessed is not set"):
        run("-d", "501", "--labeled", "4")
    monkeypatch.setenv("nnUNet_preprocessed", str(folders / "missing"))
    with pytest.raises(DataError, match="which is no folder"):
        run("-d", "501", "--labeled", "4")


@pytest.mark.parametrize("argv", [["--labeled", "4", "--labeled-cases", "a"], ["--val", "0.2"]])
def test_one_way_to_choose_is_needed(argv):
    with pytest.raises(SystemExit):
        run("-d", "501", *argv)


# A fold for each amount, and the folds of a merged dataset


def test_shares_may_be_written_as_fractions():
    assert parse_labeled("1/16") == 1 / 16
    for text in ("1/0", "3/2", "1/2/3", "/4", "a/b"):
        with pytest.raises(ConfigError, match="--labeled: expected a number of cases"):
            parse_labeled(text)


def test_a_fold_for_each_amount():
    request = SplitRequest(val=0.2)
    folds = make_folds_of_shares(TWO_TASKS, request, [0.25, 0.5])
    assert folds == [make_splits(TWO_TASKS, SplitRequest(labeled=n, val=0.2))[0] for n in (0.25, 0.5)]
    assert folds[0]["val"] == folds[1]["val"]
    assert set(folds[0]["train"]) < set(folds[1]["train"])
    assert count_notes(folds, TWO_TASKS, request, [0.25, 0.5]) == []
    with pytest.raises(ConfigError, match="2 numbers make one fold each.*--val"):
        make_folds_of_shares(TWO_TASKS, SplitRequest(), [0.25, 0.5])


def test_notes_on_each_amount():
    frames = Cases({f"p{p}_f{f}": 0 for p in range(10) for f in range(4)}, ["Cine"])
    request = SplitRequest(val=0.2, group_regex=r"(p\d)")
    folds = make_folds_of_shares(frames, request, [2, 8])
    assert count_notes(folds, frames, request, [2, 8]) == [
        "Fold 0, Cine: 4 labelled cases, not 2, since groups stay whole."
    ]


SOURCES = {"Dataset501_Heart": ["001", "002", "003", "004"], "Dataset502_Heart_MR": ["001", "002", "003"]}


@pytest.fixture
def merged(folders):
    """Two datasets, one called as the other begins, and what they were merged to, split."""
    for name, ids in SOURCES.items():
        make_dataset(folders / "raw" / name, ids)
    tasks = [
        {"name": name[11:], "labels": [f"l{i}"], "prefix": f"{name[11:]}_"} for i, name in enumerate(SOURCES)
    ]
    ids = [f"{name[11:]}_{case}" for name, cases in SOURCES.items() for case in cases]
    block = {"nnunet_ssl": {"tasks": tasks, "merged_from": list(SOURCES)}, "labels": {"l0": 1, "l1": 2}}
    for root in ("raw", "preprocessed"):
        make_dataset(folders / root / "Dataset520_All", ids, DATASET_JSON | block)
    run("-d", "520", "--labeled", "1", "2", "--val", "0.3")
    return folders


def test_folds_like_those_of_a_merged_dataset(merged, capsys):
    path = merged / "preprocessed" / "Dataset520_All" / "splits_final.json"
    whole = json.loads(path.read_text())
    rejoined = [{key: [] for key in fold} for fold in whole]
    for name, ids in SOURCES.items():
        run("-d", name[7:10], "--like", "520")
        folds = json.loads((merged / "preprocessed" / name / "splits_final.json").read_text())
        for together, fold in zip(rejoined, folds, strict=True):
            assert sorted(case for key in fold for case in fold[key]) == ids
            for key in fold:
                together[key] += [f"{name[11:]}_{case}" for case in fold[key]]
    assert [{key: sorted(fold[key]) for key in fold} for fold in rejoined] == whole
    assert "fold  task" in capsys.readouterr().out


def test_folds_like_those_of_a_dataset_that_is_not_planned_yet(merged):
    """As after merge and split, of which neither needs a plan."""
    (merged / "preprocessed" / "Dataset520_All" / "dataset.json").unlink()
    run("-d", "501", "--like", "520")
    assert (merged / "preprocessed" / "Dataset501_Heart" / "splits_final.json").is_file()


def test_folds_like_those_of_another_dataset(merged):
    make_dataset(merged / "raw" / "Dataset503_Liver", ["001"])
    with pytest.raises(DataError, match="Dataset520_All was made of Dataset501_Heart, Dataset502_Heart_MR"):
        run("-d", "503", "--like", "520")
    (merged / "raw" / "Dataset501_Heart" / "imagesTr" / "005_0000.nii.gz").touch()
    with pytest.raises(DataError, match="1 cases of Dataset501_Heart are not in the split.*'005'"):
        run("-d", "501", "--like", "520")
    (merged / "preprocessed" / "Dataset520_All" / "splits_final.json").unlink()
    with pytest.raises(DataError, match="has no splits_final.json yet"):
        run("-d", "501", "--like", "520")
