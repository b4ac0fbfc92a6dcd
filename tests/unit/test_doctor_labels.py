"""Labels: values, blank masks, absent classes; each case on the labels of its own task."""

import pytest

from nnunet_ssl.doctor.checks import labels
from tests.unit.doctor_facts import TWO_TASKS, case, fold, said, study

GOOD = [case(f"c{i}") for i in range(4)]


def test_good_labels_are_fine():
    for check in (labels.check_values, labels.check_tasks, labels.check_blank, labels.check_classes):
        assert check(study(GOOD)) == []


@pytest.mark.parametrize("values", [(0, 1, 255), (0, 3), (0, 0.5, 1), (-1, 0)])
def test_unknown_values(values):
    assert said(labels.check_values(study([*GOOD, case("x", values=values)]))) == [
        ("error", "label-values", ("x",))
    ]


def test_the_ignore_label_is_known():
    json = {"labels": {"background": 0, "organ": 1, "tumour": 2, "ignore": 3}}
    assert labels.check_values(study([case("a", values=(0, 1, 3))], dataset_json=json)) == []


def test_regions_know_their_members():
    json = {"labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3]}, "regions_class_order": [1, 2]}
    cases = [case("a", values=(0, 1)), case("b", values=(0, 3))]
    assert labels.check_values(study(cases, dataset_json=json)) == []
    assert labels.check_classes(study(cases, dataset_json=json)) == []
    assert [f.found for f in labels.check_classes(study(cases[:1], dataset_json=json))] == [
        "Class 'core' is in no labelled training case."
    ]


def test_values_of_another_task():
    cases = [
        case("Heart_a", values=(0, 1)),
        case("Heart_b", values=(0, 1, 2)),
        case("Belly_a", values=(0, 2, 3)),
    ]
    assert said(labels.check_values(study(cases, dataset_json=TWO_TASKS))) == [
        ("warning", "foreign-labels", ("Heart_b",))
    ]


def test_a_labelled_case_of_no_task():
    cases = [case("Heart_a", values=(0, 1)), case("stray", values=(0, 1)), case("bare", "imagesUn")]
    assert said(labels.check_tasks(study(cases, dataset_json=TWO_TASKS))) == [
        ("error", "no-task", ("stray",))
    ]


def test_some_blank_masks_are_a_warning():
    assert said(labels.check_blank(study([*GOOD, case("x", values=(0,))]))) == [
        ("warning", "blank-label", ("x",))
    ]


def test_mostly_blank_masks_pose_as_labels():
    blank = [case(f"x{i}", values=(0,)) for i in range(5)]
    findings = labels.check_blank(study([*GOOD, *blank]))
    assert said(findings) == [("error", "blank-label", tuple(c.case for c in blank))]
    assert findings[0].found.startswith("5 of 9 labels are blank")


def test_a_mask_of_wrong_values_is_wrong_not_blank():
    assert labels.check_blank(study([*GOOD, case("x", values=(0, 255))])) == []


def test_blank_masks_of_hidden_cases_do_not_count():
    cases = [*GOOD, case("x", values=(0,))]
    split = [fold("0", ["c0", "c1"], ["c2", "c3"], ["x"])]
    assert labels.check_blank(study(cases, split)) == []
    elsewhere = fold("1", ["x", "c1"], ["c2", "c3"], ["c0"])
    assert said(labels.check_blank(study(cases, [*split, elsewhere]))) == [("warning", "blank-label", ("x",))]


def test_blank_is_judged_on_the_own_task():
    cases = [case("Heart_a", values=(0, 1)), case("Heart_b", values=(0, 2)), case("Belly_a", values=(0, 3))]
    findings = labels.check_blank(study(cases, dataset_json=TWO_TASKS))
    assert [f.cases for f in findings] == [("Heart_b",)]
    assert "of task 'Heart'" in findings[0].found


def test_labels_of_both_sides_are_a_note():
    json = {"labels": {"background": 0, "Left lung": 1, "right lung": 2, "left_atrium": 3}}
    (finding,) = labels.check_sides(study(GOOD, dataset_json=json))
    assert str(finding.severity) == "note" and "(Left lung and right lung)" in finding.found
    assert "mirror_axes=0,1" in finding.todo


def test_labels_of_one_side_are_fine():
    json = {"labels": {"background": 0, "left_atrium": 1, "cleft": 2}}
    assert labels.check_sides(study(GOOD, dataset_json=json)) == []


def test_absent_class_names_the_folds():
    cases = [case("a", values=(0, 1)), case("b", values=(0, 1, 2)), case("c", values=(0, 1, 2))]
    split = [fold("0", ["a"], ["b"], ["c"]), fold("1", ["b"], ["a", "c"]), fold("2", ["a"], ["c"])]
    findings = labels.check_classes(study(cases, split))
    assert said(findings) == [("error", "absent-class", ())]
    assert findings[0].found == "Class 'tumour' is in no labelled training case in fold 0, 2."


def test_class_absent_from_validation_is_a_note():
    cases = [case("a"), case("b", values=(0, 1))]
    findings = labels.check_classes(study(cases, [fold("0", ["a"], ["b"])]))
    assert [(str(f.severity), f.found) for f in findings] == [
        ("note", "Class 'tumour' is in no validation case in fold 0.")
    ]


def test_task_without_labelled_case():
    cases = [
        case("Heart_a", values=(0, 1)),
        case("Belly_a", values=(0, 2, 3)),
        case("Belly_b", values=(0, 2, 3)),
    ]
    split = [fold("0", ["Heart_a"], ["Belly_a"], ["Belly_b"])]
    found = labels.check_classes(study(cases, split, TWO_TASKS))
    assert "Task 'Belly' has no labelled training case in fold 0." in [f.found for f in found]
    assert not any("spleen" in f.found and str(f.severity) == "error" for f in found)
    good = [fold("0", ["Heart_a", "Belly_a"], ["Belly_b"])]
    assert not any(str(f.severity) == "error" for f in labels.check_classes(study(cases, good, TWO_TASKS)))
