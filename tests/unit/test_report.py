"""The report: its answers on made-up scores, what it says of incomplete benchmarks, and the page itself."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_ssl.benchmark.plan import ALL, BASELINE, Fold, Plan, Run, Settings, Wish
from nnunet_ssl.benchmark.workplace import Workplace
from nnunet_ssl.commands import report
from nnunet_ssl.errors import DataError
from nnunet_ssl.report.answers import answers, bounds, headline, p_value, percent, points, sentence, signed
from nnunet_ssl.report.forest import difference_plot, watching_plot
from nnunet_ssl.report.headroom import headroom, headroom_notes
from nnunet_ssl.report.overlays import chosen_cases, overlays
from nnunet_ssl.report.page import make_page
from nnunet_ssl.report.plots import efficiency_plot, training_plot
from nnunet_ssl.report.results import Results, read_results
from nnunet_ssl.report.tables import label_rows, method_rows

GOOD, BAD = "nnUNetTrainerGood", "nnUNetTrainerBad"
LABELS = {"background": 0, "left": 1, "right": 2}
CASES = tuple(f"t{i:02d}" for i in range(12))


def make_plan(folder: Path, seeds: tuple[int, ...] = (0, 1), labeled: tuple[str, ...] = ("2", "8")) -> Plan:
    settings = Settings("Dataset901_One", "3d_fullres", "small", test="12")
    folds = tuple(
        Fold(
            0, seed, n, tuple(f"c{i}" for i in range(20 if n == ALL else int(n))), ("v",), ("u",) * (n != ALL)
        )
        for seed in seeds
        for n in (*labeled, ALL)
    )
    plan = Plan(settings, Wish((GOOD, BAD), labeled, seeds), (CASES,), folds)
    place = Workplace(folder, settings)
    for target in (place.raw, place.preprocessed):
        target.mkdir(parents=True)
        description = {"labels": LABELS, "file_ending": ".nii.gz", "channel_names": {"0": "MR"}}
        (target / "dataset.json").write_text(json.dumps(description))
    options = {"num_epochs": 3, "num_iterations_per_epoch": 40}
    network = {"arch_kwargs": {"features_per_stage": [8, 16], "strides": [[1, 1, 1], [2, 2, 2]]}}
    configurations = {"3d_fullres": {"patch_size": [16, 24, 24], "architecture": network}}
    plans = {"configurations": configurations, "nnunet_ssl": {"options": options}}
    (place.preprocessed / "small.json").write_text(json.dumps(plans))
    (folder / "benchmark.json").write_text(json.dumps(plan.to_json()))
    return plan


def finish(folder: Path, plan: Plan, run: Run, dice: NDArray[np.float64], healthy: int = 0) -> None:
    """Leave what a run leaves. ``dice``: (cases, 2), the last ``healthy`` without any structure."""
    target = Workplace(folder, plan.settings).run(run)
    target.mkdir(parents=True)
    cases = [
        {
            "case": case,
            "task": "all",
            "labels": {
                name: {m: None if math.isnan(v) else v for m, v in values_of(d).items()}
                | counts_of(d, there=i < len(CASES) - healthy)
                for name, d in zip(("left", "right"), row, strict=True)
            },
        }
        for i, (case, row) in enumerate(zip(CASES, dice.tolist(), strict=True))
    ]
    labels = {"left": {"task": "all"}, "right": {"task": "all"}}
    content = {"unit": "mm", "mean": {"labels": labels}, "cases": cases}
    (target / "evaluation.json").write_text(json.dumps(content))
    curves = {"ssl/labeled": [1.0, 0.6, 0.5], "ssl_weight/labeled": [1.0] * 3, "ema_fg_dice": [0.1, 0.4, 0.5]}
    if run.method != BASELINE:
        curves |= {"ssl/unlabeled": [0.4, None, 0.2], "ssl_weight/unlabeled": [0.0, 0.5, 1.0]}
        curves["ssl_monitor/coverage"] = [0.2, 0.5, 0.7]
        curves["dice_per_class_or_region"] = [[0.1], [0.2], [0.3]]
    (target / "curves.json").write_text(json.dumps({"curves": curves, "gpu": None}))
    command = f"nnUNetv2_train 901 3d_fullres {run.fold} -tr {run.method}"
    done = {"seconds": {"1 Train": 70.0}, "commands": [command], "versions": {"torch": "9.9"}}
    (target / "done.json").write_text(json.dumps(done))


def values_of(dice: float) -> dict[str, float]:
    return {"Dice": dice, "Jaccard": dice / (2 - dice), "HD95": 9 * (1 - dice), "ASD": 3 * (1 - dice)}


def counts_of(dice: float, there: bool) -> dict[str, int]:
    """Voxels; where there is no structure, NaN is rightly empty and 0 a false alarm."""
    if there:
        return {"n_pred": 90 if dice else 0, "n_ref": 100}
    return {"n_pred": 0 if math.isnan(dice) else 90, "n_ref": 0}


def dice_of(run: Run, good: float = 0.03, bad: float = -0.02) -> NDArray[np.float64]:
    """Cases differ, seeds differ a little, and methods by what is asked for, give or take."""
    base = np.linspace(0.7, 0.9, len(CASES))[:, None] + np.array([[0.0, 0.04]])
    base = base + {"2": -0.1, "8": 0.0, ALL: 0.05}[run.labeled] + 0.004 * run.seed
    jitter = np.random.default_rng(len(run.method)).normal(0, 0.004, base.shape)
    return np.round(base + {GOOD: good, BAD: bad}.get(run.method, 0.0) + jitter, 6)


def make_results(folder: Path, seeds: tuple[int, ...] = (0, 1), **effects: float) -> Results:
    plan = make_plan(folder, seeds)
    for run in plan.runs():
        finish(folder, plan, run, dice_of(run, **effects))
    return read_results(folder)


# Answers


def test_gain_and_loss_are_said(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    found = answers(results)
    assert [(a.labeled, a.method, a.verdict) for a in found] == [
        ("2", GOOD, "gain"),
        ("2", BAD, "loss"),
        ("8", GOOD, "gain"),
        ("8", BAD, "loss"),
    ]
    first = found[0]
    run = {m: dice_of(Run(m, 0, 0, "2", 0)).mean() for m in (BASELINE, GOOD)}
    assert first.dice.difference == pytest.approx(run[GOOD] - run[BASELINE])
    assert first.dice.mean_a == pytest.approx(run[BASELINE] + 0.002)  # mean of two seeds
    assert first.all_labels == pytest.approx(dice_of(Run(BASELINE, 0, 0, ALL, 0)).mean() + 0.002)
    assert first.by_seed == pytest.approx((first.dice.difference,) * 2)
    assert first.p == pytest.approx(4 * 2**-11) and first.dice.n == 12  # four comparisons, all of one sign
    text = sentence(first, results)
    assert re.fullmatch(
        r"With 2 labels: supervised 72\.\d, Good 75\.\d, \+3\.\d \[2\.\d, 3\.\d\], p = 0\.002; "
        r"all labels 87\.\d\. "
        r"Gain: 2\d% of the gap to all labels\.",
        text,
    )
    assert "Loss: worse than the supervised baseline." in sentence(found[1], results)
    assert headline(found, results).startswith("Yes: Good gains 3.")
    assert "No gain is shown in 2 of 4 comparisons, 2 of them a loss." in headline(found, results)


def test_no_gain_is_said_as_plainly(tmp_path: Path) -> None:
    results = make_results(tmp_path, good=0.0, bad=0.0)
    found = answers(results)
    assert {a.verdict for a in found} == {"no gain shown"}
    said = headline(found, results)
    assert said == "No gain is shown: no method is known to beat the supervised baseline."
    assert sentence(found[0], results).endswith("No gain shown.")
    assert said in make_page(results).html


def test_losses_are_said_where_nothing_gains(tmp_path: Path) -> None:
    results = make_results(tmp_path, good=-0.05)
    assert headline(answers(results), results).endswith("and a loss is shown in 4 of 4 comparisons.")


def test_little_to_gain_is_said(tmp_path: Path) -> None:
    results = make_results(tmp_path)  # with 8 labels 5 points below all labels, with 2 labels 15
    assert headroom_notes(results) == []
    assert "Little to gain" not in make_page(results).html
    gap = headroom(results, "8")
    assert gap is not None and gap.difference == pytest.approx(0.05) and gap.low > 0

    plan = make_plan(tmp_path / "flat")
    for run in plan.runs():  # all labels do as 8 do
        like = dataclasses.replace(run, labeled="8") if run.labeled == ALL else run
        finish(tmp_path / "flat", plan, run, dice_of(like))
    results = read_results(tmp_path / "flat")
    [note] = headroom_notes(results)
    assert "with 8 labels (82.2 and 82.2, 0.0 [0.0, 0.0])" in note
    page = make_page(results)
    assert note in page.html and note in page.markdown


def test_a_gap_that_is_not_known_is_not_called_little(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (0,), ("8",))
    for run in plan.runs():
        dice = np.full((len(CASES), 2), 0.65) + np.random.default_rng(1).normal(0, 1e-3, (len(CASES), 2))
        if run.labeled == ALL:  # 3 points better in the mean, and anything in a case
            dice = dice + 0.03 + np.where(np.arange(len(CASES)) % 2, 0.2, -0.2)[:, None]
        finish(tmp_path, plan, run, dice + 0.02 * (run.method == GOOD))
    results = read_results(tmp_path)
    [note] = headroom_notes(results)
    assert note.startswith("What is to be gained is not known: ") and "Take more test cases" in note
    good = answers(results)[0]
    assert (
        good.verdict == "gain" and good.gap == pytest.approx(0.03, abs=1e-3) and np.isnan(good.share_of_gap)
    )
    assert "of the gap" not in headline(answers(results), results)


def test_cases_of_a_group_count_once(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    assert answers(results)[0].dice.size == "12"
    file = tmp_path / "benchmark.json"
    content = json.loads(file.read_text())
    content["settings"]["group_regex"] = "^t."  # t00 to t09, t10 and t11
    file.write_text(json.dumps(content))
    grouped = read_results(tmp_path)
    answer = answers(grouped)[0]
    assert answer.verdict == "too few cases"
    assert answer.dice.difference == pytest.approx(answers(results)[0].dice.difference)
    assert "Too few test cases to tell (12 in 2 groups: p cannot be less than 1," in sentence(answer, grouped)
    assert "bootstrap over groups of cases" in make_page(grouped).html


def test_labelled_cases_are_counted_where_they_are_named(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    assert results.name_of_labels("8") == "8 labels"
    fold = results.plan.folds[0]
    ten = dataclasses.replace(fold, labeled="4", train=tuple(f"c{i}" for i in range(1234)))
    plan = dataclasses.replace(results.plan, folds=(ten,))
    assert dataclasses.replace(results, plan=plan).name_of_labels("4") == (
        "1234 labels (4 asked for, groups stay whole)"
    )
    tasks = {key: dataclasses.replace(s, tasks=("s",) * 6 + ("t",) * 6) for key, s in results.scores.items()}
    several = dataclasses.replace(results, plan=plan, scores=tasks)
    assert several.name_of_labels("4") == "1234 labels (4 of each task)"
    assert "Fold 0 (2 labels, seed 0" in make_page(results).html


def test_headroom_needs_all_labels(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (0,))
    for run in plan.runs():
        if run.labeled != ALL:
            finish(tmp_path, plan, run, dice_of(run))
    results = read_results(tmp_path)
    assert headroom(results, "8") is None and headroom_notes(results) == []


def test_all_labels_and_scans_without_labels(tmp_path: Path) -> None:
    plan = dataclasses.replace(make_plan(tmp_path, (0,), labeled=()), bare=("u0", "u1", "u2"))
    (tmp_path / "benchmark.json").write_text(json.dumps(plan.to_json()))
    for run in plan.runs():
        finish(tmp_path, plan, run, dice_of(run))
    results = read_results(tmp_path)
    found = answers(results)
    assert [(a.labeled, a.method, a.verdict) for a in found] == [(ALL, GOOD, "gain"), (ALL, BAD, "loss")]
    assert np.isnan(found[0].all_labels)
    text = sentence(found[0], results)
    wanted = r"With all 20 labels: supervised 87\.\d, Good 90\.\d, \+3\.\d \[.*\], p < 0\.001\. "
    assert re.fullmatch(wanted + r"Gain, by one seed\.", text)
    said = headline(found, results)
    assert said.startswith(
        "Yes, by one seed: Good gains 3.0 Dice points with all 20 labels. No gain is shown"
    )
    assert difference_plot(found, results) and efficiency_plot(results)
    assert headline(found, results) in make_page(results).html


def test_few_cases_cannot_tell(tmp_path: Path) -> None:
    plan = dataclasses.replace(make_plan(tmp_path, (0,)), tests=(CASES[:4],))
    (tmp_path / "benchmark.json").write_text(json.dumps(plan.to_json()))
    for run in plan.runs():
        finish(tmp_path, plan, run, dice_of(run))
        file = Workplace(tmp_path, plan.settings).run(run) / "evaluation.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"cases": content["cases"][:4]}))
    results = read_results(tmp_path)
    found = answers(results)
    assert {a.verdict for a in found} == {"too few cases"}
    assert headline(found, results) == "Too few test cases (4) to tell whether any method helps."
    assert "p cannot be less than 0.5, corrected for 4 tests" in sentence(found[0], results)


def test_words_for_numbers() -> None:
    assert (points(0.8214), points(float("nan"))) == ("82.1", "-")
    assert (signed(0.019), signed(-0.004), signed(-0.0001)) == ("+1.9", "\u22120.4", "0.0")
    assert bounds(-0.01, 0.031) == "[\u22121.0, 3.1]"
    assert (p_value(0.0004), p_value(0.0041), p_value(float("nan"))) == ("< 0.001", "0.004", "-")
    assert [percent(s) for s in (0.274, -0.15, math.nan)] == ["27%", "\u221215%", "-"]


def test_fractions_are_named_with_their_cases(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    fold = dataclasses.replace(results.plan.folds[0], labeled="0.1")
    other = dataclasses.replace(results, plan=dataclasses.replace(results.plan, folds=(fold,)))
    assert other.name_of_labels("0.1") == "2 labels (10 %)"
    assert results.name_of_labels(ALL) == "all 20 labels"


# What is not complete


def test_failed_and_missing_runs_are_named_and_the_rest_is_reported(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    place = Workplace(tmp_path, plan.settings)
    runs = plan.runs()
    for run in runs:
        if run.method == BAD and run.labeled == "2":
            place.run(run).mkdir(parents=True)
            error = {"run": run.name, "error": "out of <memory>\nmore"}
            (place.run(run) / "failed.json").write_text(json.dumps(error))
        elif not (run.method == GOOD and run.seed == 1):
            finish(tmp_path, plan, run, dice_of(run))
    results = read_results(tmp_path)
    found = answers(results)
    assert [(a.labeled, a.method, a.seeds) for a in found] == [
        ("2", GOOD, (0,)),
        ("8", GOOD, (0,)),
        ("8", BAD, (0, 1)),
    ]
    page = make_page(results)
    assert "10 of 14 runs are done, 2 failed, 2 still to do" in page.markdown
    assert "out of &lt;memory&gt;" in page.html and "out of <memory>" in page.markdown
    assert f"{GOOD}/labeled_8/seed_1" in page.html


def test_a_run_whose_files_are_broken_is_a_failed_one(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    runs = [run for run in results.plan.runs() if run.method == BAD]
    (results.place.run(runs[0]) / "evaluation.json").write_text('{"half": ')
    (results.place.run(runs[1]) / "done.json").write_text("{}")
    (results.place.run(runs[2]) / "evaluation.json").unlink()
    (results.place.run(runs[3]) / "curves.json").write_text("[1, ")
    again = read_results(tmp_path)
    assert list(again.failed) == runs[:4] and len(again.done) == len(results.done) - 4
    for run, text in again.failed.items():
        assert "cannot be read" in text
        assert text.endswith(f"Remove done.json and stamps in {results.place.run(run)} and do it again.")
    assert f"{len(again.done)} of 14 runs are done, 4 failed" in make_page(again).html


def test_seeds_that_disagree_show_no_gain(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for run in plan.runs():
        finish(tmp_path, plan, run, dice_of(run, good=0.06 if run.seed else -0.02))
    results = read_results(tmp_path)
    found = [answer for answer in answers(results) if answer.method == GOOD]
    assert all(a.dice.low > 0 and a.p < 0.05 and a.verdict == "no gain shown" for a in found)
    assert sentence(found[0], results).endswith("No gain shown: the sign depends on the seed.")


def test_what_rests_on_one_seed_says_so(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for run in plan.runs():
        if run.seed == 0:
            finish(tmp_path, plan, run, dice_of(run))
    for results in (read_results(tmp_path), make_results(tmp_path / "one", seeds=(0,))):
        page = make_page(results)
        assert page.summary[0].startswith("Yes, by one seed: Good gains")
        assert "One seed: how much depends on the choice of the labelled cases is not known." in page.html


def test_the_gap_is_that_of_the_same_seeds(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for run in plan.runs():
        if not (run.labeled == ALL and run.seed == 1):
            finish(tmp_path, plan, run, dice_of(run))
    found = answers(read_results(tmp_path))
    assert all(np.isnan(a.all_labels) and np.isnan(a.share_of_gap) for a in found)


def test_the_gap_is_that_of_the_same_pairs(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (0,), ("2",))
    for run in plan.runs():
        dice = np.full((len(CASES), 2), 0.7 if run.method == GOOD else 0.6)
        dice[-1] = np.nan
        if run.labeled == ALL:
            dice[:] = 0.8
            dice[-1] = 0.0  # a false alarm, where neither method nor baseline has one
        finish(tmp_path, plan, run, dice, healthy=1)
    results = read_results(tmp_path)
    good = answers(results)[0]
    assert (good.all_labels, good.gap, good.share_of_gap) == pytest.approx((0.8, 0.2, 0.5))
    assert "; all labels 80.0. Gain, by one seed: 50% of the gap" in sentence(good, results)


def test_a_mean_that_most_cases_contradict_is_no_gain(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for run in plan.runs():
        dice = dice_of(dataclasses.replace(run, method=BASELINE))
        if run.method == GOOD:
            dice = dice + np.where(np.arange(len(CASES)) < 2, 0.1, -0.001)[:, None]
        finish(tmp_path, plan, run, dice)
    answer = next(a for a in answers(read_results(tmp_path)) if a.method == GOOD)
    assert answer.dice.difference > 0 > answer.dice.ranks
    sure = dataclasses.replace(answer, p=0.01, dice=dataclasses.replace(answer.dice, low=0.001))
    assert sure.verdict == "no gain shown"


def test_more_tests_need_more_cases(tmp_path: Path) -> None:
    answer = answers(make_results(tmp_path))[0]
    eight = dataclasses.replace(answer, dice=dataclasses.replace(answer.dice, n=8, groups=8))
    assert dataclasses.replace(eight, tests=6).verdict == "gain"  # 6 * 2^-7 = 0.047
    assert dataclasses.replace(eight, tests=7).verdict == "too few cases"  # 0.055


def test_nothing_to_report(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    place = Workplace(tmp_path, plan.settings)
    place.run(plan.runs()[0]).mkdir(parents=True)
    (place.run(plan.runs()[0]) / "failed.json").write_text('{"error": "no GPU"}')
    with pytest.raises(DataError, match=r"nothing to report\.\n  .*labeled_2/seed_0: no GPU"):
        read_results(tmp_path)


def test_only_a_baseline_is_done(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    finish(tmp_path, plan, plan.runs()[0], dice_of(plan.runs()[0]))
    page = make_page(read_results(tmp_path))
    assert "No comparison is complete yet." in page.html


# Tables and pictures


def test_tables_count_what_was_missed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for run in plan.runs():
        dice = dice_of(run)
        if run.method == BAD and run.seed == 1:
            dice[3, 1] = 0.0
        finish(tmp_path, plan, run, dice)
    results = read_results(tmp_path)
    rows = method_rows(results)["rows"]
    assert [row[:3] for row in rows[:3]] == [["2 labels", n, 2] for n in ("supervised", "Good", "Bad")]
    assert [row[-2:] for row in rows[:3]] == [[text, "-"] for text in ("0 of 48", "0 of 48", "1 of 48")]
    assert rows[-1][0] == "all 20 labels"
    per_label = label_rows(results)
    assert per_label is not None
    assert [row[2] for row in per_label["rows"][:4]] == ["left", "right", "left", "right"]
    assert per_label["rows"][0][4:] == [""] * 4
    assert per_label["rows"][2][5].startswith("+2.9") and per_label["rows"][2][7] == "12"


def test_false_alarms_count_and_pairs_without_a_structure_are_said(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (0,), ("2",))
    for run in plan.runs():
        dice = dice_of(run)
        dice[-4:] = np.nan
        if run.method == GOOD:
            dice[-3:] = 0.0
        finish(tmp_path, plan, run, dice, healthy=4)
    results = read_results(tmp_path)
    bad, good = answers(results)  # the worse one with structures is the better one with false alarms
    assert (good.method, good.verdict) == (GOOD, "no gain shown")
    sick = {m: dice_of(Run(m, 0, 0, "2", 0))[:8].mean() for m in (BASELINE, GOOD)}
    expected = (8 * sick[BASELINE] + 3) / 11, 8 * sick[GOOD] / 11
    assert (good.dice.mean_a, good.dice.mean_b) == pytest.approx(expected)
    assert (good.dice.n, good.dice.both_empty, bad.dice.n, bad.dice.both_empty) == (11, 1, 8, 4)
    page = make_page(results)
    for text in (page.html, page.markdown):
        assert "11, both empty: 1" in text and "8, both empty: 4" in text


def test_plots_are_svg_and_show_every_curve(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    for plot in (efficiency_plot(results), training_plot(results, GOOD)):
        assert plot is not None
        ElementTree.fromstring(plot)
    drawn = training_plot(results, GOOD)
    assert drawn is not None and drawn == training_plot(results, GOOD)  # same content, same file
    for title in ("labeled", "unlabeled", "pseudo-labels: share of foreground", "online validation Dice"):
        assert f"<!-- {title}" in drawn
    assert "<!-- dice_per_class" not in drawn
    assert "<!-- supervised, all 20 labels" in efficiency_plot(results)


def test_the_differences_are_drawn_best_first(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    drawn = difference_plot(answers(results), results)
    assert drawn is not None
    ElementTree.fromstring(drawn)
    places = [drawn.index(f"<!-- {text} -->") for text in ("with 2 labels", "Good", "Bad", "with 8 labels")]
    assert places == sorted(places) and "<!-- all labels -->" in drawn
    assert difference_plot([], results) is None


def test_the_monitor_is_drawn_for_all_methods_and_hidden_labels_are_marked(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    drawn = watching_plot(results)
    assert drawn is not None
    ElementTree.fromstring(drawn)
    for text in ("pseudo-labels: share of foreground", "Good", "Bad"):
        assert f"<!-- {text} -->" in drawn
    assert "<!-- supervised -->" not in drawn  # it has no pseudo-labels
    assert "monitor_hidden_labels" not in make_page(results).html
    run = next(run for run in results.done if run.method == GOOD)
    file = results.place.run(run) / "curves.json"
    content = json.loads(file.read_text())
    content["curves"]["ssl_monitor/hidden_dice"] = [0.1, 0.2, 0.3]
    content["warnings"] = ["epoch 2: they were empty."]
    content["options"] = {"seed": 0, "ramp_length": 0.4}
    file.write_text(json.dumps(content))
    results = read_results(tmp_path)
    page = make_page(results)
    for text in (page.html, page.markdown):
        assert f"{run.name}: the pseudo-labels may have collapsed. epoch 2: they were empty." in text
        assert "ramp_length 0.4" in text and "seed 0, ramp" not in text
        assert "monitor_hidden_labels=true" in text and "for the curve of the pseudo-labels" in text
    drawn = watching_plot(results)
    assert drawn is not None and "<!-- pseudo-labels: Dice with hidden labels -->" in drawn


def write_map(file: Path, value: Any) -> None:
    array = np.zeros((6, 40, 50), np.float32 if file.name.endswith("_0000.nii.gz") else np.uint8)
    array[2:5, 10:20, 10:20] = value
    array[2:4, 25:30, 12:22] = 2 * value
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


def test_worst_and_median_cases(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    assert chosen_cases(results, "2") == {"worst": "t00", "median": "t06"}
    nothing = overlays(results, "2")
    assert nothing.png is None and not nothing.shown
    assert nothing.missing[0] == "worst case t00: The scan of t00 is no longer there."
    for text in (make_page(results).html, make_page(results).markdown):
        assert "Cases without a picture: 2 labels, worst case t00: The scan of t00" in text
    place = results.place
    for case in ("t00", "t06"):
        write_map(place.test_images(0) / f"{case}_0000.nii.gz", 1.5)
        write_map(place.test_labels(0) / f"{case}.nii.gz", 1)
        for run in results.done:
            write_map(place.run(run) / "predictions" / f"{case}.nii.gz", 1)
    drawn = overlays(results, "2")
    assert drawn.png is not None and drawn.png.startswith(b"\x89PNG") and not drawn.missing
    page = make_page(results)
    assert "worst case t00, median case t06" in page.html and "without a picture" not in page.html
    begun = {key: scores for key, scores in results.scores.items() if key[0] == BASELINE}
    names = [picture.file for picture in make_page(dataclasses.replace(results, scores=begun)).pictures]
    assert "cases_2.png" in names and "cases_all.png" not in names  # before any method is done
    (place.run(next(iter(results.done))) / "predictions" / "t00.nii.gz").unlink()
    again = overlays(results, "2")
    assert again.png is not None and again.png != drawn.png and again.shown == drawn.shown
    for case in ("t00", "t06"):
        (place.test_labels(0) / f"{case}.nii.gz").unlink()
        alone = overlays(results, "2")
        assert (alone.png is None) == (case == "t06")  # rows without a reference are left out


# The page


def test_the_page_is_one_file_and_answers_first(tmp_path: Path) -> None:
    page = make_page(make_results(tmp_path / "b"))
    html = page.html
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert addresses and all(a.startswith("data:image/") for a in addresses)
    for address in addresses:
        base64.b64decode(address.split(",", 1)[1], validate=True)
    assert "<script" not in html and "http:" not in re.sub(r"data:[^\"]*", "", html)
    order = [
        html.index(text)
        for text in ("Yes: Good gains", "With 2 labels:", "<img", "All numbers", "What happened", "To repeat")
    ]
    assert order == sorted(order)
    for text in (
        "torch 9.9",
        "3 epochs of 40 updates",
        "nnUNetv2_train 901 3d_fullres 0",
        "export nnUNet_raw=",
        "nnUNetv2_ssl benchmark -d Dataset901_One -c 3d_fullres -p small --trainers nnUNetTrainerGood",
        "patch_size 16-24-24, features_per_stage 8-16, strides 1x1x1-2x2x2",
    ):
        assert text in html and text in page.markdown
    assert re.search(r"0: \+3\.\d, 1: \+3\.\d", html)


def test_the_command_writes_page_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_results(tmp_path / "b")
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    report.run(parser.parse_args(["-i", str(tmp_path / "b"), "-o", str(tmp_path / "out")]))
    said = capsys.readouterr().out
    assert said.startswith("Yes: Good gains") and str(tmp_path / "out" / "report.html") in said
    markdown = (tmp_path / "out" / "report.md").read_text()
    shown = re.findall(r"\]\((pictures/[^)]*)\)", markdown)
    assert len(shown) == 6 and all((tmp_path / "out" / name).is_file() for name in shown)
    table = [line for line in markdown.splitlines() if line.startswith("| 2 labels")]
    assert len(table) == 3 + 6 and {line.count("|") for line in table[:3]} == {10}
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        report.run(parser.parse_args(["-i", str(tmp_path / "b"), "-o", str(tmp_path / "file")]))
