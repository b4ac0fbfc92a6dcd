"""The engine: layout, links, resuming, errors that leave nothing half-written, splits."""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion import convert_case, writer
from nnunet_ssl.conversion.cases import Case, fingerprint, sanitized
from nnunet_ssl.conversion.dataset_plan import DatasetPlan, target_name
from nnunet_ssl.conversion.images import read_mask
from nnunet_ssl.conversion.labeled import check_labeled, folds_for, write_labeled
from nnunet_ssl.conversion.paper_splits import Split, drawn, drawn_shares, fold, fold_with_last
from nnunet_ssl.errors import ConfigError, DataError
from tests.unit.convert_files import NAME, blob, files, itk, read, scan, write

LABELS = {"background": 0, "liver": 1}


@pytest.fixture
def source(tmp_path):
    """Two labelled scans, a bare one and a test one."""
    folder = tmp_path / "source"
    for i, name in enumerate("abct"):
        write(folder / f"{name}.nii.gz", scan(i))
        write(folder / f"{name}_seg.nii.gz", blob())
    return folder


def cases(source):
    def labelled(name, subset):
        return Case(name, [source / f"{name}.nii.gz"], source / f"{name}_seg.nii.gz", subset)

    return [labelled("a", "train"), labelled("b", "train"), labelled("t", "test")] + [
        Case("c", [source / "c.nii.gz"], None, "unlabeled")
    ]


def plan(source, **more):
    values = {"values": {0: 0, 1: 1}, "labels": LABELS, "channels": ("CT",), "file_ending": ".nii.gz"}
    return DatasetPlan(**{"name": NAME, "origin": "test/default", "cases": cases(source), **values, **more})


EXPECTED = [
    "conversion.json",
    "dataset.json",
    "imagesTr/a_0000.nii.gz",
    "imagesTr/b_0000.nii.gz",
    "imagesTs/t_0000.nii.gz",
    "imagesUn/c_0000.nii.gz",
    "labelsTr/a.nii.gz",
    "labelsTr/b.nii.gz",
    "labelsTs/t.nii.gz",
]


def test_layout_and_description(raw, source):
    folder, how = writer.write_dataset(plan(source, about={"licence": "CC0"}))
    assert folder == raw / NAME
    assert files(folder) == EXPECTED
    assert how == {"linked": 7}
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "name": "Test",
        "licence": "CC0",
    }
    assert os.path.samefile(folder / "imagesTr/a_0000.nii.gz", source / "a.nii.gz")
    assert [p.name for p in raw.iterdir()] == [NAME]  # nothing is left of the making
    record = json.loads((folder / "conversion.json").read_text())["cases"][0]
    assert record["sources"] == [[str(source / "a.nii.gz")], [str(source / "a_seg.nii.gz")]]


def test_copies_outlive_the_download(raw, source):
    folder, how = writer.write_dataset(plan(source), copy=True)
    assert how == {"copied": 7}
    for path in source.iterdir():
        path.unlink()
    np.testing.assert_array_equal(read(folder / "imagesTr/a_0000.nii.gz"), scan(0))


def test_other_format_is_converted(raw, source):
    write(source / "a.nrrd", scan(0))
    both = [Case("a", [source / "a.nrrd"], source / "a_seg.nii.gz")]
    folder, how = writer.write_dataset(plan(source, cases=both))
    assert how == {"converted": 1, "linked": 1}
    np.testing.assert_array_equal(read(folder / "imagesTr/a_0000.nii.gz"), scan(0))
    assert itk(scan()).GetDirection() == sitk.ReadImage(str(folder / "imagesTr/a_0000.nii.gz")).GetDirection()


def test_labels_that_need_work_are_not_linked(raw, source):
    write(source / "a_seg.nii.gz", blob(255))
    turned = sitk.DICOMOrient(itk(blob(255)), "RAS")
    sitk.WriteImage(turned, str(source / "b_seg.nii.gz"))
    folder, how = writer.write_dataset(plan(source, cases=cases(source)[:2], values={0: 0, 255: 1}))
    assert how == {"linked": 2, "converted": 2}
    for name in "ab":
        np.testing.assert_array_equal(read(folder / f"labelsTr/{name}.nii.gz"), blob(1))


def test_several_channels_must_fit(raw, source):
    two = Case("a", [source / "a.nii.gz", source / "b.nii.gz"], source / "a_seg.nii.gz")
    folder, _ = writer.write_dataset(plan(source, cases=[two], channels=("T1", "T2")))
    assert files(folder / "imagesTr") == ["a_0000.nii.gz", "a_0001.nii.gz"]
    write(source / "b.nii.gz", scan(), origin=(0, 0, 0))
    with pytest.raises(DataError, match="channel 1 has"):
        writer.write_dataset(plan(source, name="Dataset702_Moved", cases=[two], channels=("T1", "T2")))


def test_error_leaves_nothing_at_the_name_and_a_second_call_goes_on(raw, source, monkeypatch):
    (source / "b.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"(?s)1 of 4 cases could not be converted.*b: .*b\.nii\.gz"):
        writer.write_dataset(plan(source))
    assert not (raw / NAME).exists()
    write(source / "b.nii.gz", scan(1))
    seen = []
    real = convert_case.convert
    monkeypatch.setattr(writer, "convert", lambda job: seen.append(job.case.identifier) or real(job))
    folder, how = writer.write_dataset(plan(source))
    assert seen == ["b"]  # the others were not done again
    assert files(folder) == EXPECTED
    assert how == {"linked": 7}


def test_a_missing_file_fails_its_case_alone(raw, source):
    (source / "b_seg.nii.gz").unlink()
    with pytest.raises(DataError, match=r"(?s)1 of 4 cases could not be converted.*b: .*b_seg\.nii\.gz"):
        writer.write_dataset(plan(source))
    folder, _ = writer.write_dataset(plan(source), skip_errors=True)
    assert files(folder / "imagesTr") == ["a_0000.nii.gz"]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 1


def test_rows_name_sources_below_their_common_folder(source):
    write(source / "a" / "scan.nrrd", scan())
    one = Case("a", [source / "a" / "scan.nrrd"], source / "a_seg.nii.gz")
    assert plan(source, cases=[one, *cases(source)[1:]]).case_rows() == [
        ("a", "imagesTr", "a/scan.nrrd", "a_seg.nii.gz", "convert"),
        ("b", "imagesTr", "b.nii.gz", "b_seg.nii.gz", "link"),
        ("t", "imagesTs", "t.nii.gz", "t_seg.nii.gz", "link"),
        ("c", "imagesUn", "c.nii.gz", "-", "link"),
    ]


def test_rows_where_sources_have_no_common_folder(source, monkeypatch):
    def on_two_drives(_):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", on_two_drives)
    row = plan(source).case_rows()[0]
    assert row[2:4] == (str(source / "a.nii.gz"), str(source / "a_seg.nii.gz"))


def test_changed_source_is_done_again(raw, source, monkeypatch):
    (source / "b.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError):
        writer.write_dataset(plan(source), copy=True)
    write(source / "b.nii.gz", scan(1))
    write(source / "a.nii.gz", scan(9))
    folder, _ = writer.write_dataset(plan(source), copy=True)
    np.testing.assert_array_equal(read(folder / "imagesTr/a_0000.nii.gz"), scan(9))


def test_killed_in_the_middle_of_a_file(raw, source):
    building = raw / f".{NAME}.building"
    (building / "imagesTr").mkdir(parents=True)
    (building / "imagesTr" / ".tmp-a_0000.nii.gz").write_bytes(b"half")
    (building / "imagesTr" / "old_0000.nii.gz").write_bytes(b"of another plan")
    (building / writer.LOG).write_text('{"case": "a", "fingerpr')
    folder, _ = writer.write_dataset(plan(source))
    assert files(folder) == EXPECTED


def test_skip_errors_leaves_out_what_failed(raw, source):
    (source / "b.nii.gz").write_bytes(b"broken")
    folder, _ = writer.write_dataset(plan(source), skip_errors=True)
    assert files(folder / "imagesTr") == ["a_0000.nii.gz"]
    assert files(folder / "labelsTr") == ["a.nii.gz"]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 1


def test_every_labelled_case_failed(raw, source):
    for name in "ab":
        (source / f"{name}.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError, match="No labelled case is left"):
        writer.write_dataset(plan(source), skip_errors=True)
    assert not (raw / NAME).exists()


def test_finished_dataset_is_recognised_and_never_replaced_unasked(raw, source):
    writer.write_dataset(plan(source))
    before = (raw / NAME / "conversion.json").stat().st_mtime_ns
    assert writer.write_dataset(plan(source)) == (raw / NAME, {})
    assert (raw / NAME / "conversion.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="--overwrite"):
        writer.write_dataset(plan(source, cases=cases(source)[:1]))
    folder, _ = writer.write_dataset(plan(source, cases=cases(source)[:1]), overwrite=True)
    assert "imagesUn" not in [p.name for p in folder.iterdir()]


@pytest.mark.parametrize(
    "change",
    [{"labels": {"background": 0, "spleen": 1}}, {"channels": ("MR",)}, {"labels": {"tumour": (1,)}}],
)
def test_other_names_of_labels_or_channels_are_another_dataset(raw, source, change):
    writer.write_dataset(plan(source))
    renamed = plan(source, **change)
    with pytest.raises(DataError, match="--overwrite"):
        writer.write_dataset(renamed)
    folder, _ = writer.write_dataset(renamed, overwrite=True)
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": renamed.channels[0]}
    assert content["labels"].keys() == renamed.labels.keys()
    assert writer.write_dataset(renamed) == (folder, {})


def test_dataset_of_others_is_never_replaced(raw, source):
    (raw / NAME).mkdir()
    (raw / NAME / "precious").touch()
    with pytest.raises(DataError, match="not made by convert"):
        writer.write_dataset(plan(source), overwrite=True)
    assert files(raw / NAME) == ["precious"]


@pytest.mark.parametrize(
    ("path", "listed"),
    [
        ("imagesUn/mine_0000.nii.gz", "imagesUn/mine_0000.nii.gz"),  # as --into and README put them there
        ("prompt_embedding.npz", "prompt_embedding.npz"),
        ("dataset.json", "dataset.json"),  # edited
        ("labelsTr/a.nii.gz", "labelsTr/a.nii.gz"),  # corrected by hand
        ("imagesTr/.DS_Store", None),
    ],
)
def test_what_convert_did_not_write_is_never_lost(raw, source, path, listed):
    writer.write_dataset(plan(source, values={0: 0, 1: 1, 255: 1}))
    own = raw / NAME / path
    own.unlink(missing_ok=True)
    own.write_bytes(b"precious")
    less = plan(source, cases=cases(source)[:1])
    if listed is None:
        writer.write_dataset(less, overwrite=True)
        return
    with pytest.raises(DataError, match=rf"1 file\(s\) that convert did not write there.*: {listed}\."):
        writer.write_dataset(less, overwrite=True)
    assert own.read_bytes() == b"precious"
    own.unlink()
    writer.write_dataset(less, overwrite=True)
    assert files(raw / NAME / "imagesTr") == ["a_0000.nii.gz"]


def test_own_files_beside_an_unchanged_dataset(raw, source):
    writer.write_dataset(plan(source))
    (raw / NAME / "imagesUn" / "mine_0000.nii.gz").touch()
    assert writer.write_dataset(plan(source), overwrite=True) == (raw / NAME, {})
    assert (raw / NAME / "imagesUn" / "mine_0000.nii.gz").exists()


def test_own_files_that_come_while_it_is_made(raw, source, monkeypatch):
    writer.write_dataset(plan(source))
    real = convert_case.convert
    own = raw / NAME / "imagesUn" / "mine_0000.nii.gz"
    monkeypatch.setattr(writer, "convert", lambda job: own.touch() or real(job))
    with pytest.raises(DataError, match="mine_0000"):
        writer.write_dataset(plan(source, cases=cases(source)[:1]), overwrite=True)
    assert own.exists()


def test_nothing_labelled_is_refused(raw, source):
    with pytest.raises(DataError, match="None of the 1 scans has a label"):
        writer.write_dataset(plan(source, cases=cases(source)[3:]))


def test_label_value_out_of_the_list(raw, source):
    write(source / "a_seg.nii.gz", blob(7))
    with pytest.raises(DataError, match=r"a: the label map holds the value\(s\) 7"):
        writer.write_dataset(plan(source))


def test_target_name(raw):
    assert target_name("7", "Heart") == "Dataset007_Heart"
    assert target_name("Dataset008_Own", "Heart") == "Dataset008_Own"
    (raw / "Dataset009_Taken").mkdir()
    with pytest.raises(DataError, match="taken by Dataset009_Taken"):
        target_name("9", "Heart")
    for bad in ("Heart", "1000", "0", "Dataset010_a b"):
        with pytest.raises(DataError, match="cannot name a dataset"):
            target_name(bad, "Heart")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identifier": "../a"}, "cannot name a case"),
        ({"identifier": ""}, "cannot name a case"),
        ({"images": []}, "no image"),
        ({"label": None}, "has no label"),
        ({"subset": "unlabeled"}, "has a label"),
    ],
)
def test_impossible_case(change, message):
    with pytest.raises(DataError, match=message):
        Case(**{"identifier": "a", "images": [Path("a")], "label": Path("b"), **change})


def test_two_cases_of_one_name(source):
    a = cases(source)[0]
    with pytest.raises(DataError, match="Two scans would be called A"):
        plan(source, cases=[a, Case("A", [source / "b.nii.gz"], source / "b_seg.nii.gz")])


def test_fingerprint_follows_files_and_options(source):
    case = Case("a", [source / "a.nii.gz"], functools.partial(read_mask, (source / "a_seg.nii.gz",)))
    before = fingerprint(case, {"gray": True})
    assert before == fingerprint(case, {"gray": True})
    assert before != fingerprint(case, {"gray": False})
    os.utime(source / "a_seg.nii.gz", ns=(1, 1))
    assert before != fingerprint(case, {"gray": True})


@pytest.mark.parametrize(
    ("name", "clean"), [("benign (12)", "benign_12"), ("ä b", "b"), ("..", "case"), ("a-b.c", "a-b.c")]
)
def test_sanitized(name, clean):
    assert sanitized(name) == clean


def many(count, per_group=2):
    return [Case(f"c{i:03d}", [Path("x")], Path("y"), group=f"g{i // per_group}") for i in range(count)]


def test_draws_are_nested_whole_groups_of_the_right_size():
    sixteenth, quarter = (drawn(many(320), share, "labeled") for share in (1 / 16, 1 / 4))
    assert (len(sixteenth), len(quarter)) == (20, 80)
    assert set(sixteenth) < set(quarter)
    groups = {case.identifier: case.group for case in many(320)}
    assert all(groups[c] not in {groups[d] for d in groups if d not in quarter} for c in quarter)
    assert drawn(many(320), 1 / 4, "other") != quarter
    assert len(drawn(many(4), 0.001, "labeled")) == 2  # at least one group


def test_drawn_shares_have_one_validation_and_disjoint_roles():
    made = drawn_shares(many(160), "p", {"1of8": 1 / 8, "1of4": 1 / 4}, 0.25, "paper", "note")
    assert [split.name for split in made] == ["p-1of8", "p-1of4"]
    one, other = (split.folds[0] for split in made)
    assert one["val"] == other["val"] and len(one["val"]) == 40
    assert (len(one["train"]), len(other["train"])) == (14, 30)  # pairs stay together: 14 for 15
    assert sorted(one["train"] + one["val"] + one["unlabeled"]) == [c.identifier for c in many(160)]


def test_fold_with_last_never_gives_a_case_two_parts():
    assert fold_with_last(["a", "b"], list("abcdef"), 2) == {
        "train": ["a", "b"],
        "val": ["e", "f"],
        "unlabeled": ["c", "d"],
    }
    assert fold_with_last(["a", "b"], list("abc"), 2)["val"] == []


def test_split_says_where_it_comes_from_and_what_is_missing(raw, source):
    split = Split(
        "paper-1", "Paper 2025", [fold(["a"], ["b"], ["a", "b", "z"])], chosen_on_test=True, note="Note."
    )
    folder, _ = writer.write_dataset(plan(source, splits=[split]))
    (one,) = json.loads((folder / "splits" / "paper-1.json").read_text())
    assert (one["train"], one["val"], one["unlabeled"]) == (["a"], ["b"], [])
    assert one["source"] == "Paper 2025" and one["models_chosen_on_test"] is True
    assert one["missing_cases"] == 1
    assert one["note"].startswith(
        "Note. The official code keeps the checkpoint that is best on the test cases"
    )
    assert split.is_usable({"a", "b"}) and not split.is_usable({"a"})


def test_labeled_takes_a_paper_or_a_number(raw, source, monkeypatch):
    split = Split("paper-1", "Paper 2025", [fold(["a"], ["b"], ["a", "b"])])
    named = plan(source, splits=[split])
    file = write_labeled(named, "paper-1")
    assert file == raw.parent / "preprocessed" / NAME / "splits_final.json"
    assert json.loads(file.read_text())[0]["train"] == ["a"]
    grouped = plan(source, cases=[Case(c.identifier, c.images, c.label, group=c.group) for c in many(20)])
    for one in folds_for(grouped, "4"):
        assert len(one["train"]) == 4
        groups = [{int(case[1:]) // 2 for case in one[role]} for role in ("train", "val", "unlabeled")]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    few = plan(source, cases=many(3, 1))
    assert [len(one["train"]) for one in folds_for(few, "2")] == [2, 2, 2]  # as many folds as there can be
    with pytest.raises(ConfigError, match="paper-1"):
        check_labeled(named, "paper-2")
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(DataError, match="nnUNet_preprocessed is not set"):
        check_labeled(named, "4")
