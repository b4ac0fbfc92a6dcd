"""The answer, in numbers and in a sentence: does a method beat the supervised baseline on the same labels?

A method is compared with the baseline case by case, each case's Dice averaged over the seeds. The interval
and the test say how sure one can be with these test cases and these trainings; they do not cover other
choices of labelled cases, which is why the difference of each seed is shown, too. The p-values of one page
are corrected for their number (Holm). A gain, or a loss, is claimed only if the interval leaves out 0, the
corrected p is below 0.05, the ranks of the test point the same way and all seeds agree on the sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nnunet_ssl.benchmark.plan import ALL, BASELINE
from nnunet_ssl.evaluation.compare import OVERALL, Comparison, compare, compare_on_pairs, holm, smallest_p
from nnunet_ssl.evaluation.scores import Scores
from nnunet_ssl.report.results import Results, short_name

Verdict = Literal["gain", "no gain shown", "loss", "too few cases"]


@dataclass(frozen=True)
class Answer:
    """One method against the supervised baseline with the same labels.

    Attributes:
        method: name of the trainer.
        labeled: number of labels as typed.
        seeds: that both have a result for.
        dice: the comparison of the mean Dice, baseline as A.
        by_seed: difference of the mean Dice for each seed.
        upper: the baseline with all labels (as B) on the pairs of ``dice``, for other cases would be another
            gap; ``None`` for all labels, and until it is known for each of these seeds.
        p: corrected for the number of comparisons on the page.
        tests: that number.
    """

    method: str
    labeled: str
    seeds: tuple[int, ...]
    dice: Comparison
    by_seed: tuple[float, ...]
    upper: Comparison | None
    p: float
    tests: int = 1

    @property
    def verdict(self) -> Verdict:
        """What may be said."""
        if not self.dice.can_show(self.tests):
            return "too few cases"
        if self.seeds_disagree or not self.dice.shown(self.p):
            return "no gain shown"
        return "gain" if self.dice.shown(self.p) > 0 else "loss"

    @property
    def seeds_disagree(self) -> bool:
        """Whether one seed speaks for the method and another against it."""
        return min(self.by_seed) < 0 < max(self.by_seed)

    @property
    def all_labels(self) -> float:
        """Mean Dice of the baseline with all labels; NaN where not known."""
        return self.upper.mean_b if self.upper else math.nan

    @property
    def gap(self) -> float:
        """By how much the baseline with all labels is better than with these; NaN where not known."""
        return self.upper.difference if self.upper else math.nan

    @property
    def share_of_gap(self) -> float:
        """Share of the gap that the method closes; NaN where it is not known to be larger than 0."""
        return self.dice.difference / self.gap if self.upper and self.upper.low > 0 else math.nan


def answers(results: Results) -> list[Answer]:
    """Every method at every number of labels, the smallest number and the best method first.

    With all labels, too, where there were scans without labels to learn from.
    """
    found = [
        answer
        for labeled in results.labels
        for method in results.methods
        if method != BASELINE
        for answer in [_answer(results, method, labeled)]
        if answer is not None
    ]
    order = {labeled: i for i, labeled in enumerate(results.labels)}
    found.sort(key=lambda answer: (order[answer.labeled], -answer.dice.difference))
    corrected = holm([answer.dice.p for answer in found])
    tests = sum(not math.isnan(p) for p in corrected)
    return [replace(answer, p=p, tests=tests) for answer, p in zip(found, corrected, strict=True)]


def sentence(answer: Answer, results: Results) -> str:
    """Say it: ``With 8 labels: supervised 82.1, PICK 84.0, +1.9 [0.8, 3.1], p = 0.004; all labels 85.3``."""
    dice = answer.dice
    parts = [
        f"With {results.name_of_labels(answer.labeled)}: supervised {points(dice.mean_a)}, "
        f"{short_name(answer.method)} {points(dice.mean_b)}, {signed(dice.difference)} "
        f"{bounds(dice.low, dice.high)}, {_p_equals(answer.p)}"
    ]
    if not math.isnan(answer.all_labels):
        parts.append(f"; all labels {points(answer.all_labels)}")
    return "".join(parts) + ". " + _verdict_text(answer)


def headline(found: Sequence[Answer], results: Results) -> str:
    """The answer in one line."""
    if not found:
        return "No comparison is complete yet."
    if all(answer.verdict == "too few cases" for answer in found):
        return f"Too few test cases ({found[0].dice.size}) to tell whether any method helps."
    gains = [answer for answer in found if answer.verdict == "gain"]
    losses = [answer for answer in found if answer.verdict == "loss"]
    if gains:
        best = max(gains, key=lambda answer: answer.dice.difference)
        share = best.share_of_gap
        text = (
            f"Yes{_by_one_seed(best)}: {short_name(best.method)} gains {points(best.dice.difference)} Dice "
            f"points with {results.name_of_labels(best.labeled)}"
            + ("." if math.isnan(share) else f", {percent(share)} of the gap to all labels.")
        )
        others = len(found) - len(gains)
        worse = f", {len(losses)} of them a loss" if losses else ""
        return text + (f" No gain is shown in {others} of {len(found)} comparisons{worse}." if others else "")
    text = "No gain is shown: no method is known to beat the supervised baseline"
    if losses:
        return f"{text}, and a loss is shown in {len(losses)} of {len(found)} comparisons."
    if all(answer.seeds_disagree for answer in found):
        return f"{text}; whether a method gains or loses depends on the seed."
    return f"{text}."


def compare_dice(a: Scores, b: Scores) -> Comparison:
    """The mean Dice over labels, paired by case."""
    return next(c for c in compare(a, b, metrics=["Dice"]) if c.label == OVERALL)


def points(dice: float) -> str:
    """Dice in points of 100."""
    return "-" if math.isnan(dice) else f"{100 * dice:.1f}"


def signed(difference: float) -> str:
    """A difference in points, with its sign; a true minus, as it stands in prose."""
    if math.isnan(difference):
        return "-"
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """A share, which may be negative; the minus as in ``signed``."""
    return "-" if math.isnan(share) else f"{share:.0%}".replace("-", "\N{MINUS SIGN}")


def bounds(low: float, high: float) -> str:
    """An interval in points."""
    if math.isnan(low):
        return "[-]"
    return f"[{100 * low:.1f}, {100 * high:.1f}]".replace("-", "\N{MINUS SIGN}")


def p_value(p: float) -> str:
    """Three digits after the point, no more than there is sense in."""
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _p_equals(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _answer(results: Results, method: str, labeled: str) -> Answer | None:
    seeds = results.seeds((method, labeled), (BASELINE, labeled))
    if not seeds:
        return None

    def both(chosen: Sequence[int]) -> tuple[Scores, Scores]:
        return results.mean(BASELINE, labeled, chosen), results.mean(method, labeled, chosen)

    pair = both(seeds)
    overall = compare_dice(*pair)
    known = labeled != ALL and results.seeds((method, labeled), (BASELINE, labeled), (BASELINE, ALL)) == seeds
    upper = compare_on_pairs(*pair, results.mean(BASELINE, ALL, seeds), "Dice") if known else None
    by_seed = tuple(compare_dice(*both([seed])).difference for seed in seeds)
    return Answer(method, labeled, tuple(seeds), overall, by_seed, upper, overall.p)


def _by_one_seed(answer: Answer) -> str:
    return ", by one seed" if len(answer.seeds) == 1 else ""


def _verdict_text(answer: Answer) -> str:
    if answer.verdict == "too few cases":
        least = min(1.0, answer.tests * smallest_p(answer.dice.groups))
        many = f", corrected for {answer.tests} tests" if answer.tests > 1 else ""
        return f"Too few test cases to tell ({answer.dice.size}: p cannot be less than {least:.3g}{many})."
    if answer.verdict == "loss":
        return f"Loss{_by_one_seed(answer)}: worse than the supervised baseline."
    if answer.verdict == "no gain shown":
        return f"No gain shown{_why_not(answer)}."
    share = answer.share_of_gap
    gap = "" if math.isnan(share) else f": {percent(share)} of the gap to all labels"
    return f"Gain{_by_one_seed(answer)}{gap}."


def _why_not(answer: Answer) -> str:
    """What keeps a difference from being shown, where it is not plain to see."""
    if answer.seeds_disagree:
        return ": the sign depends on the seed"
    if answer.dice.difference * answer.dice.ranks < 0:
        return ": most cases differ the other way"
    return ""
