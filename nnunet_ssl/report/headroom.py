"""Was there anything to gain? Unlabelled scans stand in for labels, so compare few labels with all of them.

Where all labels beat few by next to nothing, the labels are not what limits the model: the budget or the
plans are. Then no method can show a gain, and a missing one says nothing about it. Where the difference is
not known well enough, the test cases are too few to say so.
"""

from __future__ import annotations

from nnunet_ssl.benchmark.plan import ALL, BASELINE
from nnunet_ssl.evaluation.compare import Comparison
from nnunet_ssl.report.answers import bounds, compare_dice, points, signed
from nnunet_ssl.report.results import Results

LITTLE = 0.01  # a Dice point


def headroom(results: Results, labeled: str) -> Comparison | None:
    """The supervised baseline with these labels (A) and with all (B), paired by case; ``None`` if one lacks.

    Each case's Dice is averaged over the seeds that both have, or over all that each has if they share none.
    """
    few, every = (results.seeds((BASELINE, n)) for n in (labeled, ALL))
    if not few or not every:
        return None
    shared = [seed for seed in few if seed in every]
    baseline = results.mean(BASELINE, labeled, shared or few)
    upper = results.mean(BASELINE, ALL, shared or every)
    return compare_dice(baseline, upper)


def headroom_notes(results: Results) -> list[str]:
    """A warning for each number of labels at which there was nothing to gain."""
    notes = []
    for labeled in results.labels:
        gap = headroom(results, labeled) if labeled != ALL else None
        if gap is None or gap.low > 0:
            continue
        seen = (
            "supervised training with all labels is not shown to beat the one with "
            f"{results.name_of_labels(labeled)} ({points(gap.mean_a)} and {points(gap.mean_b)}, "
            f"{signed(gap.difference)} {bounds(gap.low, gap.high)})"
        )
        notes.append(_little(seen) if gap.high < LITTLE else _unknown(seen))
    return notes


def _little(seen: str) -> str:
    return (
        f"Little to gain: {seen}, so it is not the labels that limit the model. Train longer (or, if you "
        "cannot, with optimizer=adamw and initial_lr=0.003), or with fewer labels, before you judge a method."
    )


def _unknown(seen: str) -> str:
    return (
        f"What is to be gained is not known: {seen}. Take more test cases, train longer, or with fewer "
        "labels, before you judge a method."
    )
