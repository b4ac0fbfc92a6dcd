"""Paired comparison of two models: differences, Wilcoxon, what is left out, what is refused."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import stats

from nnunet_ssl.commands import evaluate
from nnunet_ssl.errors import ConfigError, DataError
from nnunet_ssl.evaluation.compare import (
    OVERALL,
    Comparison,
    compare,
    compare_on_pairs,
    holm,
    rank_correlation,
    smallest_p,
    wilcoxon,
)
from nnunet_ssl.evaluation.scores import Scores, average, concatenate, scores_from_json
from nnunet_ssl.evaluation.table import show_comparison

NAN = float("nan")


def make(
    dice: Any,
    cases: tuple[str, ...] | None = None,
    labels: tuple[str, ...] | None = None,
    tasks: tuple[str, ...] | None = None,
    healthy: tuple[int, ...] = (),
    **more: Any,
) -> Scores:
    """Structures everywhere but in the rows ``healthy``: there NaN is right and 0 a false alarm."""
    values = np.asarray(dice, float)
    values = values[:, None] if values.ndim == 1 else values
    names = cases or tuple(f"c{i}" for i in range(len(values)))
    labels = labels or tuple(f"l{i}" for i in range(values.shape[1]))
    n_ref = np.full(values.shape, 9.0)
    n_ref[list(healthy)] = 0
    return Scores(
        names,
        tasks or ("t",) * len(names),
        labels,
        ("t",) * len(labels),
        {"Dice": values, **more},
        n_ref,
        np.full(values.shape, 8.0),
        ((n_ref == 0) & np.isnan(values)).astype(float),
    )


def test_difference_interval_and_p() -> None:
    generator = np.random.default_rng(0)
    one = generator.uniform(0.6, 0.8, 20)
    other = one + generator.normal(0.03, 0.02, 20)
    label, overall = compare(make(one), make(other))
    assert (label.n, label.left_out, label.label, overall.label) == (20, 0, "l0", OVERALL)
    assert label.difference == pytest.approx((other - one).mean())
    assert label.low < label.difference < label.high
    assert label.p == pytest.approx(stats.wilcoxon(other - one).pvalue)
    assert (overall.difference, overall.p) == pytest.approx((label.difference, label.p))
    swapped = compare(make(other), make(one))[0]
    assert swapped.difference == pytest.approx(-label.difference)
    assert swapped.p == pytest.approx(label.p)


def test_pairing_is_by_case_and_not_by_position() -> None:
    one = make([0.1, 0.5, 0.9], ("a", "b", "c"))
    other = make([0.9, 0.5, 0.1], ("c", "b", "a"))
    assert compare(one, other)[0].p == 1.0
    assert compare(one, other)[0].difference == 0.0


def test_only_what_is_defined_under_both_makes_a_pair() -> None:
    one = make([[0.5, 0.5], [NAN, 0.7], [0.6, NAN]])
    other = make([[0.7, 0.6], [0.9, 0.7], [0.6, NAN]])
    first, second, overall = compare(one, other)
    assert (first.n, first.left_out, second.n, second.left_out) == (2, 1, 2, 0)
    assert (first.mean_a, first.mean_b) == pytest.approx((0.55, 0.65))
    assert overall.difference == pytest.approx((0.1 + 0.05) / 2)  # mean of the labels' means
    assert (overall.n, overall.left_out) == (3, 1)


def test_a_false_alarm_is_held_against_a_rightly_empty_prediction() -> None:
    healthy = (7, 8, 9)
    careful = make([0.6] * 7 + [NAN] * 3, healthy=healthy)
    alarmed = make([0.7] * 7 + [0.0] * 3, healthy=healthy)
    row = compare(careful, alarmed)[0]
    assert (row.n, row.left_out, row.both_empty) == (10, 0, 0)
    assert (row.mean_a, row.mean_b) == pytest.approx((0.72, 0.49))  # (7 x 0.6 + 3) / 10, 7 x 0.7 / 10
    # differences 7 x +0.1 and 3 x -1: the ranks are 4 and 9, so R+ = 28 and R- = 27
    assert row.ranks == pytest.approx(1 / 55) and row.low < 0 and row.shown() == 0
    swapped = compare(alarmed, careful)[0]
    assert swapped.difference == pytest.approx(0.23)


def test_where_both_are_rightly_empty_there_is_no_pair() -> None:
    one = make([0.6, 0.8, NAN, NAN, 0.0], healthy=(2, 3, 4))
    other = make([0.7, 0.0, NAN, 0.0, 0.0], healthy=(2, 3, 4))  # misses the second, alarmed by the fourth
    row = compare(one, other)[0]
    assert (row.n, row.left_out, row.both_empty) == (4, 0, 1)
    assert (row.mean_a, row.mean_b) == pytest.approx((2.4 / 4, 0.7 / 4))  # c0, c1, c3 and c4


def test_empty_references_of_one_of_two_labels() -> None:
    one = make([[0.6, 0.5], [0.8, NAN], [0.7, NAN]])
    other = make([[0.7, 0.6], [0.9, NAN], [0.9, 0.0]])
    empty = np.array([[9.0, 9], [9, 0], [9, 0]])
    one, other = (
        Scores(**{**vars(s), "n_ref": empty, "both_empty": np.isnan(s.values["Dice"]) + 0.0})
        for s in (one, other)
    )
    first, second, overall = compare(one, other)
    assert (first.n, first.both_empty, second.n, second.both_empty) == (3, 0, 2, 1)
    assert (second.mean_a, second.mean_b) == pytest.approx((0.75, 0.3))
    assert (overall.n, overall.both_empty) == (3, 1)
    assert overall.difference == pytest.approx((0.4 / 3 - 0.45) / 2)
    # by case +0.1, +0.1 and (0.2 - 1) / 2 = -0.4: ranks 1.5, 1.5 and 3
    assert overall.ranks == 0.0


def test_distances_of_an_empty_reference_make_no_pair() -> None:
    distance = np.array([[4.0], [NAN]])
    one = make([0.5, NAN], healthy=(1,), HD95=distance, Jaccard=np.array([[0.3], [NAN]]))
    other = make([0.5, 0.0], healthy=(1,), HD95=distance - 1, Jaccard=np.array([[0.3], [0.0]]))
    rows = {row.metric: row for row in compare(one, other) if row.label == OVERALL}
    assert (rows["HD95"].n, rows["HD95"].left_out, rows["HD95"].difference) == (1, 0, -1.0)
    assert (rows["Jaccard"].n, rows["Jaccard"].mean_a) == (2, pytest.approx(0.65))


def test_runs_that_are_rightly_empty_now_and_then() -> None:
    def mean(*runs: Any) -> Scores:
        return average([make(run, healthy=(1, 2)) for run in runs])

    # in c1 one of two runs is right under A and both are under B, in c2 one of two under either
    row = compare(mean([0.6, NAN, 0.0], [0.8, 0.0, NAN]), mean([0.7, NAN, NAN], [0.7, NAN, 0.0]))[0]
    assert (row.n, row.both_empty) == (3, 0)
    assert (row.mean_a, row.mean_b) == pytest.approx(((0.7 + 0.5 + 0.5) / 3, (0.7 + 1 + 0.5) / 3))
    same = mean([0.6, NAN, 0.0], [0.8, NAN, 0.0])
    assert compare(same, same)[0].both_empty == 1


def test_a_third_model_on_the_pairs_of_two() -> None:
    one, other = (make(dice, healthy=(1, 2)) for dice in ([0.6, NAN, NAN], [0.7, NAN, 0.0]))
    third = make([0.0, NAN, 0.8], ("c1", "c2", "c0"), healthy=(0, 1))
    assert compare_on_pairs(one, other, third, "Dice").mean_b == pytest.approx((0.8 + 1) / 2)  # c1 is no pair
    with pytest.raises(DataError, match="different references"):
        compare_on_pairs(one, other, make([0.8, 0.5, 0.5]), "Dice")


def test_each_task_has_a_row() -> None:
    tasks, labels = ("s", "s", "t", "t", "t"), ("l0", "l1", "l2")
    s, t = [[0.5, 0.3, NAN], [0.6, 0.3, NAN]], [[NAN, NAN, 0.5], [NAN, NAN, 0.6], [NAN, NAN, 0.7]]
    one = make([*s, *t], labels=labels, tasks=tasks)
    gain = np.array([[0.2, 0.1, 0.0]])
    one = Scores(**{**vars(one), "label_tasks": ("s", "s", "t")})
    other = Scores(**{**vars(one), "values": {"Dice": one.values["Dice"] + gain}})
    rows = {row.label: row for row in compare(one, other)}
    assert list(rows) == ["l0", "l1", "l2", "mean of s", OVERALL]  # t has one label, which says it all
    assert (rows["mean of s"].n, rows["l2"].n, rows[OVERALL].n) == (2, 3, 5)
    assert [rows[k].difference for k in ("mean of s", "l2", OVERALL)] == pytest.approx([0.15, 0, 0.1])


def test_wilcoxon_at_its_ends() -> None:
    assert wilcoxon(np.zeros(5)) == 1.0
    assert np.isnan(wilcoxon(np.array([NAN])))
    assert wilcoxon(np.array([0.1, NAN, 0.2, 0.0, 0.3])) == 0.25  # three pairs of one sign
    for n in (1, 4, 8):
        assert wilcoxon(np.arange(1.0, n + 1)) == pytest.approx(smallest_p(n))


def frames(groups: int, size: int, generator: np.random.Generator) -> tuple[Scores, Scores]:
    """Two models of equal worth: which is better depends on the patient, and half of that on the frame."""
    patient = np.repeat(generator.normal(0, 0.05, groups), size)
    noise = generator.normal(0, 0.05, groups * size)
    one = make(np.full(groups * size, 0.7), tuple(f"p{i // size}_{i}" for i in range(groups * size)))
    return one, dataclasses.replace(one, values={"Dice": 0.7 + (patient + noise)[:, None]})


def test_frames_of_a_patient_are_not_independent() -> None:
    generator = np.random.default_rng(0)
    shown = {False: 0, True: 0}
    for _ in range(60):  # nothing is to be shown
        pair = frames(12, 10, generator)
        for grouped in shown:
            one, other = (s.grouped(r"p\d+" if grouped else None) for s in pair)
            shown[grouped] += abs(compare(one, other)[-1].shown())
    assert shown[False] > 15  # of 60: a claim at 0.05 that is wrong one time in three
    assert shown[True] <= 8


def test_groups_by_hand() -> None:
    one = make([0.5, 0.5, 0.5, 0.5, NAN], ("a_1", "a_2", "a_3", "b_1", "b_2"))
    other = make([0.6, 0.7, 0.8, 0.4, NAN], ("a_1", "a_2", "a_3", "b_1", "b_2"))
    row = compare(one.grouped("^."), other.grouped("^."))[0]
    assert (row.n, row.groups, row.size) == (4, 2, "4 in 2 groups")
    assert row.difference == pytest.approx(0.125)  # of the cases
    assert row.p == wilcoxon(np.array([0.2, -0.1])) and row.ranks == pytest.approx(1 / 3)  # of the groups
    assert (row.low, row.high) == pytest.approx((-0.1, 0.2))  # a draw of one group twice
    alone = compare(one, other)[0]
    assert (alone.n, alone.groups, alone.size) == (4, 4, "4")


def test_groups_must_be_the_same() -> None:
    one = make([0.5, 0.6], ("a_1", "b_1"))
    with pytest.raises(DataError, match="other groups of cases. Evaluate both with the same --group-regex"):
        compare(one.grouped("^."), one)
    with pytest.raises(DataError, match="finds no group in case 'b_1'"):
        one.grouped("a")


def test_groups_stay_with_their_cases() -> None:
    one = make([0.5, 0.6, 0.7], ("a_1", "b_1", "a_2")).grouped("^.")
    assert one.select(("a_2", "b_1")).groups == ("a", "b")
    assert average([one, one]).groups == one.groups
    parts = [one.select(("a_1", "a_2")), one.select(("b_1",))]
    assert concatenate(parts).groups == ("a", "a", "b")
    assert one.grouped(None) == one or one.grouped(None).groups == one.groups


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation(np.array([0.1, 0.2, 0.4])) == 1.0
    assert rank_correlation(np.array([0.1, -0.2, 0.4, 0.0, NAN])) == pytest.approx((1 - 2 + 3) / 6)
    assert rank_correlation(np.array([0.1, -0.1])) == 0.0  # ties share a rank
    assert rank_correlation(np.zeros(3)) == 0.0 and np.isnan(rank_correlation(np.array([NAN])))
    differences = np.random.default_rng(1).normal(0.2, 1, 30)
    smaller = stats.wilcoxon(differences).statistic  # the smaller of the two sums of ranks
    assert abs(rank_correlation(differences)) == pytest.approx(1 - 2 * smaller / (30 * 31 / 2))


def test_what_is_shown() -> None:
    row = Comparison("Dice", OVERALL, 12, 12, 0, 0, 0.5, 0.52, 0.01, 0.03, 0.02, 0.7)
    assert row.shown() == 1 and row.shown(p=0.06) == 0  # a corrected p takes the place of its own
    assert Comparison(*vars(row).values()) == row
    changed = {**vars(row), "low": -0.03, "high": -0.01}
    assert Comparison(**changed).shown() == 0  # ranks and mean disagree
    assert Comparison(**{**changed, "ranks": -0.7}).shown() == -1
    assert Comparison(**{**vars(row), "low": -0.01}).shown() == 0
    assert row.can_show(tests=24) and not row.can_show(tests=128)
    assert not Comparison(**{**vars(row), "groups": 5}).can_show()


def test_a_few_large_gains_against_many_small_losses_show_nothing() -> None:
    one = np.full(40, 0.6)
    other = one + np.where(np.arange(40) < 6, 0.12, -0.005) + np.arange(40) * 1e-5
    row = compare(make(one), make(other))[0]
    assert row.low > 0 and row.p < 0.05 and row.ranks < 0 and row.shown() == 0


def test_holm_by_hand() -> None:
    corrected = holm([0.01, NAN, 0.04, 0.03, 0.9])
    assert corrected[0] == pytest.approx(0.04) and np.isnan(corrected[1])
    assert corrected[2:] == pytest.approx([0.09, 0.09, 0.9])
    assert holm([]) == []


def test_other_references_units_or_cases_are_refused() -> None:
    good = make([0.5, 0.6])
    other = Scores(**{**vars(good), "n_ref": good.n_ref + 1})
    with pytest.raises(DataError, match="case c0 has 9 voxels of l0 in one and 10 in the other"):
        compare(good, other)
    with pytest.raises(DataError, match="scored in mm, the other in voxel"):
        compare(good, Scores(**{**vars(good), "unit": "voxel"}))
    with pytest.raises(DataError, match="share no case"):
        compare(good, make([0.5], ("x",)))
    with pytest.raises(DataError, match="labels l0, the other on l0, l1"):
        compare(good, make([[0.5, 0.5]] * 2))


def test_a_task_that_one_model_has_no_case_of_is_left_out() -> None:
    labels, tasks = ("l0", "l1"), ("s", "s", "t")
    one = make([[0.5, NAN], [0.6, NAN], [NAN, 0.7]], labels=labels, tasks=tasks)
    one = Scores(**{**vars(one), "label_tasks": ("s", "t")})
    other = one.select(("c0", "c1"))
    assert (other.labels, other.label_tasks, other.values["Dice"].shape) == (("l0",), ("s",), (2, 1))
    assert [(row.label, row.n) for row in compare(one, other)] == [("l0", 2), (OVERALL, 2)]
    renamed = Scores(**{**vars(other), "labels": ("other",)})
    with pytest.raises(DataError, match="labels l0, the other on other"):
        compare(one, renamed)


def test_runs_are_averaged_case_by_case() -> None:
    mean = average([make([0.4, NAN, NAN], ("a", "b", "c")), make([0.5, NAN, 0.8], ("b", "c", "a"))])
    assert mean.cases == ("a", "b", "c")
    assert mean.values["Dice"][:2, 0] == pytest.approx([0.6, 0.5])
    assert np.isnan(mean.values["Dice"][2, 0])
    with pytest.raises(DataError, match="differ in a, b"):
        average([make([1.0], ("a",)), make([1.0], ("b",))])


def test_parts_are_joined_also_where_a_label_is_absent() -> None:
    joined = concatenate([make([[0.5, 0.6]]), make([[0.9]], ("d",), ("l1",))])
    assert joined.cases == ("c0", "d") and joined.labels == ("l0", "l1")
    assert joined.values["Dice"][:, 1] == pytest.approx([0.6, 0.9])
    assert np.isnan(joined.values["Dice"][1, 0]) and np.isnan(joined.both_empty[1, 0])


def test_both_empty_is_read_from_the_counts() -> None:
    counts = {"a": (0, 0), "b": (3, 0), "c": (0, 3), "d": (3, 3)}
    cases = [
        {"case": case, "task": "t", "labels": {"l": {"Dice": None, "n_pred": pred, "n_ref": ref}}}
        for case, (pred, ref) in counts.items()
    ]
    cases.append({"case": "e", "task": "u", "labels": {}})
    content = {"unit": "mm", "mean": {"labels": {"l": {"task": "t"}}}, "cases": cases}
    np.testing.assert_array_equal(scores_from_json(content).both_empty[:, 0], [1, 0, 0, 0, NAN])


def test_a_file_that_is_no_evaluation_is_named() -> None:
    with pytest.raises(DataError, match=r"some\.json was not written by"):
        scores_from_json({"mean": {}}, "some.json")


# The command


def write(file: Path, stop: int) -> None:
    array = np.zeros((4, 6, 8), np.uint8)
    array[..., :stop] = 1
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


def run_command(*argv: object) -> None:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    evaluate.run(parser.parse_args([str(a) for a in argv]))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    described = {"labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz", "name": "Liver"}
    for i, case in enumerate("abcdefg"):
        write(tmp_path / "ref" / f"{case}.nii.gz", 4)
        write(tmp_path / "one" / f"{case}.nii.gz", 2 + i % 2)
        write(tmp_path / "two" / f"{case}.nii.gz", 4)
    for name in ("one", "two"):
        (tmp_path / name / "dataset.json").write_text(json.dumps(described))
    return tmp_path


def test_command_scores_both_and_compares(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folders / "comparison.json"
    one, two = folders / "one", folders / "two"
    run_command("-ref", folders / "ref", "--compare", one, two, "-np", 1, "-o", output)
    shown = capsys.readouterr().out
    rows = json.loads(output.read_text())["rows"]
    dice = next(r for r in rows if r["metric"] == "Dice" and r["label"] == "liver")
    # four cases have half of the liver (Dice 2/3), three have three quarters (Dice 6/7)
    assert dice["difference"] == pytest.approx(1 - (4 * 2 / 3 + 3 * 6 / 7) / 7)
    assert dice["p"] == pytest.approx(2**-6)
    assert "Mean Dice: B is better than A (+0.25" in shown and "p = 0.0156, 7 cases" in shown
    table = (folders / "comparison.csv").read_text()
    assert table.startswith("metric,label,pairs,groups,left_out,both_empty,A,B,difference")
    # evaluated before: no references needed, folders or files
    run_command("--compare", one, two / "evaluation.json")
    assert "B is better" in capsys.readouterr().out
    run_command("--compare", one, one)
    assert "no difference shown" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"-o: expected a name that ends in \.json, got out\.csv"):
        run_command("--compare", one, one, "-o", "out.csv")


def test_command_keeps_groups(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = folders / "one", folders / "two"
    run_command("-ref", folders / "ref", "--compare", one, two, "-np", 1, "--group-regex", ".")
    content = json.loads((one / "evaluation.json").read_text())
    assert [case["group"] for case in content["cases"]] == list("abcdefg")
    assert "bootstrap over groups of cases" in content["intervals"]
    with pytest.raises(DataError, match="finds no group in case 'b'"):
        run_command("--compare", one, two, "--group-regex", "a")


def test_the_table_says_that_cases_are_grouped() -> None:
    pair = (s.grouped(r"p\d+") for s in frames(8, 2, np.random.default_rng(0)))
    shown = show_comparison(compare(*pair), ("one", "two"))
    assert "16 in 8 groups" in shown and "bootstrap over groups of cases" in shown
    assert "Wilcoxon signed-rank test of the groups' means" in shown


def test_command_says_what_is_missing(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"one/evaluation\.json does not exist\. Add -ref LABELS"):
        run_command("--compare", folders / "one", folders / "two")
    (folders / "two" / "g.nii.gz").unlink()
    with pytest.raises(DataError, match=r"two/g\.nii\.gz: prediction missing"):
        run_command("-ref", folders / "ref", "--compare", folders / "one", folders / "two", "-np", 1)
    said = capsys.readouterr()
    assert "left out: g" in said.err
    assert "6 cases" in said.out


def test_command_compares_what_is_there_of_several_tasks(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {"background": 0, "liver": 1, "prostate": 2}
    tasks = [
        {"name": "Liver", "labels": ["liver"], "prefix": ""},
        {"name": "Prostate", "labels": ["prostate"], "prefix": "PR"},
    ]
    described = {"labels": labels, "file_ending": ".nii.gz", "nnunet_ssl": {"tasks": tasks}}
    for name in ("one", "two"):
        (folders / name / "dataset.json").write_text(json.dumps(described))
    for name in ("ref", "one"):
        write(folders / name / "PR_1.nii.gz", 0)
    command = ("-ref", folders / "ref", "--compare", folders / "one", folders / "two", "-np", 1)
    with pytest.raises(DataError, match=r"two/PR_1\.nii\.gz: prediction missing"):
        run_command(*command)
    shown = capsys.readouterr().out
    assert "p = 0.0156, 7 cases" in shown and "prostate" not in shown
    for case in "abcdefg":  # now nothing is shared, and the files say why
        (folders / "one" / f"{case}.nii.gz").unlink()
    with pytest.raises(DataError, match=r"share no case(.|\n)*one/a\.nii\.gz: prediction missing"):
        run_command(*command)
