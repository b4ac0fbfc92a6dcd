"""Parts: cases in two of them, splits that do not fit, patients torn apart."""

import json

import pytest

from nnunet_ssl.doctor.checks import splits
from nnunet_ssl.doctor.study import Part, read_folds
from nnunet_ssl.errors import ConfigError, DataError
from tests.unit.doctor_facts import case, fold, said, study

FRAMES = [case(f"patient{p:02d}_frame{f}") for p in range(6) for f in (1, 2)]
WHOLE = fold("0", [c.case for c in FRAMES[:8]], [c.case for c in FRAMES[8:]])
TORN = fold("1", [c.case for c in FRAMES[:9]], [c.case for c in FRAMES[9:]])
REGEX = r"(patient\d+)"


def test_parts_apart_are_fine():
    cases = [case("a"), case("b"), case("u", "imagesUn"), case("t", "imagesTs")]
    one = study(cases, [fold("0", ["a"], ["b"])])
    assert splits.check_parts(one) == splits.check_folds(one) == splits.check_patients(one) == []


def test_one_name_in_two_folders():
    cases = [case("a"), case("b"), case("a", "imagesUn"), case("t", "imagesUn"), case("t", "imagesTs")]
    assert said(splits.check_parts(study([*cases, case("b", "imagesTs")]))) == [
        ("error", "two-parts", ("a",)),
        ("error", "two-parts", ("t",)),
        ("warning", "two-parts", ("b",)),
    ]


def test_a_hidden_case_in_test():
    cases = [case("a"), case("b"), case("b", "imagesTs")]
    findings = splits.check_parts(study(cases, [fold("0", ["a"], [], ["b"])]))
    assert said(findings)[0] == ("error", "two-parts", ("b",))


def test_a_case_twice_in_a_fold():
    split = [fold("0", ["a"], ["b"]), fold("1", ["a"], ["a", "b"]), fold("2", ["a"], ["b"], ["b"])]
    findings = splits.check_folds(study([case("a"), case("b")], split))
    assert said(findings) == [("error", "two-parts", ("a", "b"))]
    assert "in fold 1, 2" in findings[0].found.replace(" of a fold", "")


def test_split_and_files_disagree():
    findings = splits.check_folds(study([case("a"), case("new")], [fold("0", ["a"], ["gone"])]))
    assert said(findings) == [("error", "stale-split", ("gone",)), ("note", "stale-split", ("new",))]


def test_a_fold_without_training_cases():
    assert said(splits.check_folds(study([case("a")], [fold("0", [], ["a"])]))) == [
        ("error", "stale-split", ())
    ]


def test_no_split_is_not_judged():
    assert splits.check_folds(study([case("a")])) == []


def test_torn_patient_by_the_regex_asked_for():
    findings = splits.check_patients(study(FRAMES, [WHOLE, TORN], group_regex=REGEX))
    assert said(findings) == [("error", "torn-patient", ("patient04",))]
    assert findings[0].details == ("patient04_frame1 trains, patient04_frame2 judges",)
    assert "in fold 1" in findings[0].found
    assert splits.check_patients(study(FRAMES, [WHOLE], group_regex=REGEX)) == []


def test_a_guess_is_only_a_warning():
    assert said(splits.check_patients(study(FRAMES, [TORN]))) == [("warning", "torn-patient", ("patient04",))]
    assert splits.check_patients(study(FRAMES, [WHOLE])) == []


@pytest.mark.parametrize(("folder", "severity"), [("imagesUn", "error"), ("imagesTs", "error")])
def test_patients_across_folders(folder, severity):
    stray = case("patient05_frame9" if folder == "imagesUn" else "patient00_frame9", folder)
    findings = splits.check_patients(study([*FRAMES, stray], [WHOLE], group_regex=REGEX))
    assert [f[:2] for f in said(findings)] == [(severity, "torn-patient")]


def test_hidden_and_labelled_frames_of_a_patient_are_no_leak():
    split = fold("0", ["patient00_frame1"], [c.case for c in FRAMES[2:]], ["patient00_frame2"])
    assert splits.check_patients(study(FRAMES, [split], group_regex=REGEX)) == []


def test_no_split_yet_but_patients_with_several_cases():
    findings = splits.check_patients(study(FRAMES))
    assert said(findings) == [("warning", "torn-patient", tuple(f"patient{p:02d}" for p in range(6)))]


@pytest.mark.parametrize(
    "names",
    [
        [f"la_{i:03d}" for i in range(10)],
        [f"busi_benign{i}" for i in range(10)],
        [f"BraTS19_{i:03d}" for i in range(10)],  # one group of all: no patients
    ],
)
def test_names_that_group_nothing(names):
    assert splits.guess_regex([case(name) for name in names]) is None


def test_a_regex_that_misses_cases():
    findings = splits.check_patients(study([*FRAMES, case("other")], [WHOLE], group_regex=REGEX))
    assert said(findings) == [("warning", "torn-patient", ("other",))]
    with pytest.raises(ConfigError, match="no regular expression|not a regular"):
        splits.check_patients(study(FRAMES, [WHOLE], group_regex="(patient"))


def test_parts_of_a_fold():
    one = fold("0", ["a"], ["b"], ["c"])
    parts = [one.part_of(case(name)) for name in "abcd"]
    assert parts == [Part.LABELED, Part.VALIDATION, Part.UNLABELED, Part.UNUSED]
    assert one.part_of(case("a", "imagesUn")) is Part.UNLABELED
    assert one.part_of(case("a", "imagesTs")) is Part.TEST


def test_read_folds(tmp_path):
    file = tmp_path / "splits_final.json"
    assert [f.name for f in read_folds(file, None, ["a"])] == [""]  # no split yet
    assert read_folds(file, "all", ["a"]) == [fold("all", ["a"])]
    file.write_text(
        json.dumps([{"train": ["a"], "val": ["b"], "unlabeled": ["c"]}, {"train": ["b"], "val": ["a"]}])
    )
    assert read_folds(file, None, ["a"]) == [fold("0", ["a"], ["b"], ["c"]), fold("1", ["b"], ["a"])]
    assert read_folds(file, "1", ["a"]) == [fold("1", ["b"], ["a"])]
    with pytest.raises(ConfigError, match="2 fold"):
        read_folds(file, "2", ["a"])
    with pytest.raises(ConfigError, match="number of a fold"):
        read_folds(file, "first", ["a"])
    file.write_text('{"train": []}')
    with pytest.raises(DataError, match="is no split"):
        read_folds(file, None, ["a"])
