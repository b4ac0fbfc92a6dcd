"""What a benchmark consists of: test cases that no fold holds, nested labels, runs, growth."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest

from nnunet_ssl.benchmark.draw import choose_tests, grow_plan, make_plan
from nnunet_ssl.benchmark.plan import BASELINE, PSEUDO_LABELS, Plan, Settings, Wish
from nnunet_ssl.conversion.split import Cases
from nnunet_ssl.errors import ConfigError, DataError

ONE = Cases({f"c{i:02d}": 0 for i in range(30)}, ["all"])
TWO = Cases({f"{t}_{i:02d}": k for k, t in enumerate("AB") for i in range(20)}, ["A", "B"])
SETTINGS = Settings("Dataset901_One", "3d_fullres", "small")


def draw(wish: Wish, cases: Cases = ONE, bare: Sequence[str] = (), **settings: Any) -> tuple[Plan, list[str]]:
    chosen = dataclasses.replace(SETTINGS, **settings)
    tests = choose_tests(cases, chosen.test, chosen.folds, chosen.group_regex, ())
    return make_plan(chosen, wish, cases, tests, bare)


@pytest.mark.parametrize("cases", [ONE, TWO])
def test_test_cases_are_fixed_and_never_seen(cases: Cases) -> None:
    plan, _ = draw(Wish(("X",), ("2", "4", "0.5"), (0, 1, 2)), cases)
    (test,) = plan.tests
    assert len(test) == 0.2 * len(cases.task_of)
    for fold in plan.folds:
        roles = [set(fold.train), set(fold.val), set(fold.unlabeled), set(test)]
        assert all(not (one & other) for one, other in itertools.combinations(roles, 2))
        assert set().union(*roles) == set(cases.task_of)
    assert len({fold.key for fold in plan.folds}) == len(plan.folds) == 3 * 4


def test_labelled_sets_are_nested_and_the_validation_is_the_same() -> None:
    plan, _ = draw(Wish((), ("8", "2", "4"), (0, 1)))
    for seed in (0, 1):
        folds = [fold for fold in plan.folds if fold.seed == seed]
        assert [fold.labeled for fold in folds] == ["2", "4", "8", "all"]
        for small, large in itertools.pairwise(folds):
            assert set(small.train) < set(large.train)
            assert small.val == large.val
    assert plan.folds[0].train != plan.folds[4].train  # another seed, other labels


def test_baseline_and_all_labels_are_always_there_and_come_first() -> None:
    plan, _ = draw(Wish(("X", BASELINE, "Y"), ("4",), (0,), pseudo_labels=True))
    assert [(r.method, r.labeled) for r in plan.runs()] == [
        (BASELINE, "4"),
        (BASELINE, "all"),  # nothing is unlabelled there
        (PSEUDO_LABELS, "4"),
        ("X", "4"),
        ("Y", "4"),
    ]
    with_bare, _ = draw(Wish(("X",), ("4",)), bare=["u0", "u1"])
    assert [(r.method, r.labeled) for r in with_bare.runs()][-2:] == [("X", "4"), ("X", "all")]
    assert [r.name for r in plan.runs()][3] == "X/labeled_4/seed_0"
    assert plan.baseline_of(plan.runs()[3]) == plan.runs()[0]


def test_one_seed_is_complete_before_the_next() -> None:
    plan, _ = draw(Wish(("X",), ("4",), (3, 1)))
    assert [r.seed for r in plan.runs()] == [3] * 3 + [1] * 3


def test_the_same_cases_are_trained_on_once() -> None:
    # 24 remain beside the test cases, 2 of them validate: 22 to train on
    plan, notes = draw(Wish((), ("11", "0.5", "22", "1.0", "ALL")))
    assert [fold.labeled for fold in plan.folds] == ["11", "all"]
    assert sorted(notes) == [
        "0.5 labels are the same cases as 11: done once.",
        "22 labels are the same cases as all: done once.",
    ]


def test_disjoint_test_sets_cover_all_cases() -> None:
    plan, _ = draw(Wish((), ("4",), (0, 1)), folds=3, test="")
    assert sorted(case for part in plan.tests for case in part) == sorted(ONE.task_of)
    assert len(plan.folds) == 3 * 2 * 2
    for fold in plan.folds:
        assert not set(plan.tests[fold.part]) & {*fold.train, *fold.val, *fold.unlabeled}
    names = [run.name for run in plan.runs()]
    assert names[0] == f"{BASELINE}/labeled_4/seed_0/part_0"
    assert names[2] == f"{BASELINE}/labeled_4/seed_0/part_1"
    assert not [name for name in names for other in names if other.startswith(f"{name}/")]  # none in another


def test_patients_stay_together() -> None:
    cases = Cases({f"p{i // 2:02d}_{i % 2}": 0 for i in range(40)}, ["all"])
    plan, _ = draw(Wish((), ("4",), (0, 1)), cases, group_regex=r"(p\d+)")
    for fold in plan.folds:
        for role in (fold.train, fold.val, fold.unlabeled, plan.tests[0]):
            assert all({f"{case[:3]}_0", f"{case[:3]}_1"} <= set(role) for case in role)
    with pytest.raises(DataError, match=r"--test tears group 'p00' apart: p00_1 would be trained on"):
        choose_tests(cases, "p00_0", 0, r"(p\d+)", ())


def test_patients_in_imagests_are_in_no_run() -> None:
    """Nor other scans of theirs, labelled or bare, by the group or by the very same name."""
    cases = Cases({f"p{i // 2:02d}_{i % 2}": 0 for i in range(40)}, ["all"])
    settings = dataclasses.replace(SETTINGS, test="imagesTs", group_regex=r"(p\d+)")
    bare = ["p01_7", "p30_0", "p99_0"]
    plan, notes = make_plan(settings, Wish((), ("4",)), cases, [["p00_9", "p01_1", "p99_5"]], bare)
    assert plan.bare == ("p30_0",)
    trained = {case[:3] for f in plan.folds for case in (*f.train, *f.val, *f.unlabeled)}
    assert trained == {f"p{i:02d}" for i in range(2, 20)}
    assert "2 scan(s) of imagesUn are left out" in notes[0] and "p01_7, p99_0" in notes[0]
    assert "4 scan(s) of imagesTr are left out" in notes[1] and "p00_0, p00_1, p01_0, p01_1" in notes[1]
    alone = dataclasses.replace(settings, group_regex=None)
    plan, notes = make_plan(alone, Wish((), ("4",)), cases, [["p00_1", "x"]], bare)
    assert plan.bare == tuple(bare) and len(notes) == 1 and notes[0].endswith("tested: p00_1.")


def test_the_numbers_all_and_one_differ() -> None:
    for labeled in (("all", "1"), ("1", "all"), ("1.0", "1")):
        plan, _ = draw(Wish((), labeled))
        assert [(fold.labeled, len(fold.train)) for fold in plan.folds] == [("1", 1), ("all", 22)]


def test_ways_to_choose_test_cases() -> None:
    assert len(choose_tests(ONE, "6", 0, None, ())[0]) == 6
    assert choose_tests(ONE, "0.2", 0, None, ()) == choose_tests(ONE, "6", 0, None, ())
    assert choose_tests(ONE, "c05, c03", 0, None, ()) == [["c03", "c05"]]
    assert choose_tests(ONE, "imagesTs", 0, None, ["t1", "t0"]) == [["t0", "t1"]]
    with pytest.raises(DataError, match="found none that have both"):
        choose_tests(ONE, "imagesTs", 0, None, ())
    with pytest.raises(DataError, match="some must remain to train on"):
        choose_tests(ONE, "30", 0, None, ())
    with pytest.raises(DataError, match="got 'c05,x1'"):
        choose_tests(ONE, "c05,x1", 0, None, ())


def test_what_is_asked_for_twice_is_done_once() -> None:
    wish = Wish(("X", "Y", "X"), ("4", "2", "4"), (0, 1, 0))
    assert wish == Wish(("X", "Y"), ("4", "2"), (0, 1)) == wish.joined(wish)


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(DataError, match="has 22 training cases"):
        draw(Wish((), ("23",)))
    with pytest.raises(ConfigError, match="--labeled: expected a number of cases"):
        draw(Wish((), ("few",)))


def test_a_plan_grows_and_keeps_its_folds() -> None:
    old, _ = draw(Wish(("X",), ("4",), (0,)))
    wish = old.wish.joined(Wish(("Y",), ("2",), (1,), pseudo_labels=True))
    new, _ = draw(wish)
    grown = grow_plan(old, new)
    assert grown.folds[: len(old.folds)] == old.folds
    assert {fold.key for fold in grown.folds} == {(0, s, n) for s in (0, 1) for n in ("2", "4", "all")}
    assert set(old.runs()) < set(grown.runs())
    assert grown.wish.trainers == ("X", "Y")
    assert grow_plan(grown, new) == grown
    with pytest.raises(ConfigError, match="benchmark with plans small, not other"):
        grow_plan(old, draw(Wish(("X",), ("4",), (0,)), plans="other")[0])
    with pytest.raises(ConfigError, match="test cases differ"):
        grow_plan(old, dataclasses.replace(old, tests=(("c00",),)))
    changed = tuple(dataclasses.replace(fold, val=()) for fold in old.folds)
    with pytest.raises(ConfigError, match="cases of seed 0 with 4 labels differ"):
        grow_plan(old, dataclasses.replace(old, folds=changed))


def test_a_plan_survives_json() -> None:
    plan, _ = draw(Wish(("X",), ("4", "0.5"), (0, 7)), bare=["u1", "u0"])
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    with pytest.raises(DataError, match="was not written by"):
        Plan.from_json({"settings": {}})


def test_whole_groups_are_said() -> None:
    frames = Cases({f"p{i // 5}_{i:03d}": 0 for i in range(100)}, ["all"])
    _, notes = draw(Wish(("X",), ("4", "10"), (0, 1)), frames, group_regex=r"p\d+")
    assert notes == ["--labeled 4: all: 5 labelled cases, not 4, since groups stay whole."]
