"""The task table: order of prompts, owners of cases, names, and what is refused."""

import pytest

from nnunet_ssl.errors import TaskError
from nnunet_ssl.tasks import Prompt, Task, TaskTable

LABELS = {"background": 0, "atrium": 1, "posterior": 3, "anterior": 2}
TASKS = [
    Task("LeftAtriumMR", ("atrium",), "LeftAtriumMR_"),
    Task(
        "Hippocampus", ("anterior", "posterior"), "Hippocampus_", {"anterior": "Segment the anterior part."}
    ),
]


def test_prompts_follow_label_values_not_the_order_of_the_file():
    table = TaskTable(LABELS, TASKS)
    assert table.prompts == (Prompt("atrium", 1, 0), Prompt("anterior", 2, 1), Prompt("posterior", 3, 1))
    assert table.prompts_of(0) == [0]
    assert table.prompts_of(1) == [1, 2]
    assert len(table) == 2
    assert not table.has_regions


def test_regions_keep_the_order_of_the_file():
    table = TaskTable({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3})
    assert table.has_regions
    assert [(p.label, p.value) for p in table.prompts] == [("whole", (1, 2)), ("core", 2)]


def test_a_region_of_background_is_none():
    table = TaskTable({"background": 0, "nothing": [0, 0], "whole": [1, 2]})
    assert [p.label for p in table.prompts] == ["whole"]


def test_a_dataset_without_the_block_is_one_task_named_after_it():
    table = TaskTable.from_dataset_json(
        {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}, "name": "Heart"}
    )
    assert [(t.name, t.labels, t.prefix) for t in table.tasks] == [("Heart", ("a", "b"), "")]
    assert table.task_of("anything") == 0
    assert TaskTable.from_dataset_json({"labels": {"a": 1}}).tasks[0].name == "all"


def test_json_and_back():
    table = TaskTable(LABELS, TASKS)
    again = TaskTable.from_dataset_json({"labels": LABELS, "nnunet_ssl": {"tasks": table.to_json()}})
    assert again.tasks == table.tasks
    assert again.prompts == table.prompts
    assert (
        TaskTable.from_plans({"nnunet_ssl": {"labels": LABELS, "tasks": table.to_json()}}).tasks
        == table.tasks
    )


def test_plans_without_a_table():
    with pytest.raises(TaskError, match="hold no task table"):
        TaskTable.from_plans({"plans_name": "nnUNetPlans"})


def test_the_longest_prefix_owns_a_case():
    table = TaskTable(
        {"a": 1, "b": 2}, [Task("Heart", ("a",), "Heart_"), Task("HeartMR", ("b",), "Heart_MR_")]
    )
    assert table.task_of("Heart_001") == 0
    assert table.task_of("Heart_MR_001") == 1
    assert table.known_task_of("Liver_1") == -1
    with pytest.raises(TaskError, match=r"Case 'Liver_1' belongs to no task: .*'Heart_' \(Heart\)"):
        table.task_of("Liver_1")


@pytest.mark.parametrize(
    ("name", "prompts"),
    [("hippocampus", [1, 2]), (" Posterior ", [2]), ("LEFTATRIUMMR", [0]), ("atrium", [0])],
)
def test_a_task_or_label_is_found_by_name_in_any_case(name, prompts):
    assert TaskTable(LABELS, TASKS).resolve(name) == prompts


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(TaskError, match=r"Unknown task 'liver'.*Hippocampus \(labels: anterior, posterior\)"):
        TaskTable(LABELS, TASKS).resolve("liver")


@pytest.mark.parametrize(
    ("labels", "tasks", "message"),
    [
        ({"background": 0}, None, "no foreground label"),
        ({"background": 0, "a": 1, "b": 1}, None, "Labels 'a' and 'b' both have the value 1"),
        ({"0": "background", "1": "a"}, None, "expected names with numbers.*'0': 'background'"),
        ({"a": None}, None, "expected names with numbers"),
        ({"a": 1}, [Task("A", ("a", "c"))], "Task 'A' names label 'c', which dataset.json lacks. Known: a"),
        (
            {"a": 1},
            [Task("A", ("a",)), Task("B", ("a",), "B_")],
            "Label 'a' is named twice: by task 'A' and by task 'B'",
        ),
        ({"a": 1, "b": 2}, [Task("A", ("a",))], r"No task annotates label\(s\) b"),
        ({"a": 1, "b": 2}, [Task("A", ("a",)), Task("a", ("b",), "B_")], "share the name 'a'"),
        ({"a": 1, "b": 2}, [Task("A", ("a",)), Task("B", ("b",))], "share the prefix ''"),
        ({"a": 1}, [Task("A", ("a",)), Task("B", (), "B_")], "Task 'B' names no label"),
        (
            {"a": 1},
            [Task("A", ("a",), "", {"c": "Segment c."})],
            "has a prompt for c, which is not among its labels",
        ),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(labels, tasks, message):
    with pytest.raises(TaskError, match=message):
        TaskTable(labels, tasks)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "A"}, "found only"),
        ({"name": "A", "labels": "a"}, "expected a list of labels, got the text 'a'"),
    ],
)
def test_a_malformed_entry_is_refused(entry, message):
    with pytest.raises(TaskError, match=message):
        TaskTable.from_dataset_json({"labels": {"a": 1}, "nnunet_ssl": {"tasks": [entry]}})
