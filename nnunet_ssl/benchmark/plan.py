"""What a benchmark consists of: test cases, folds, runs. No file is written here.

One splits file holds all of it: fold ``k`` is one combination of test part, seed and number of labels. Folds
are only ever added, so that a benchmark can grow while results keep their fold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_ssl.errors import DataError

BASELINE = "nnUNetTrainerSSLSupervised"
PSEUDO_LABELS = "pseudo-labels"  # the method "train, predict the unlabelled cases, retrain"
ALL = "all"


@dataclass(frozen=True)
class Settings:
    """What stays the same within one benchmark.

    Attributes:
        dataset: full name.
        configuration: nnU-Net's, such as ``3d_fullres``.
        plans: plans that every run is trained with; they hold the budget.
        test: how the test cases are chosen: ``imagesTs``, a number, a share, or identifiers.
        folds: instead of fixed test cases, this many disjoint test sets that cover all cases; 0 for fixed.
        val: share of the training cases for the online validation, which no result depends on.
        group_regex: names the patient in a case identifier.
        mirroring: predict with nnU-Net's test-time mirroring.
    """

    dataset: str
    configuration: str
    plans: str
    test: str = "0.2"
    folds: int = 0
    val: float = 0.1
    group_regex: str | None = None
    mirroring: bool = True


@dataclass(frozen=True)
class Wish:
    """What is compared; a benchmark can be given more of each later.

    Attributes:
        trainers: besides the supervised baseline, which is always there.
        labeled: numbers of labelled cases, or shares, as typed; ``all`` is always there.
        seeds: of the choice of labelled cases and of the training.
        pseudo_labels: also train on the supervised model's own predictions.
    """

    trainers: tuple[str, ...] = ()
    labeled: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    pseudo_labels: bool = False

    def joined(self, other: Wish) -> Wish:
        """Both together, without repetition, this one's first."""
        return Wish(
            self.trainers + other.trainers,
            self.labeled + other.labeled,
            self.seeds + other.seeds,
            self.pseudo_labels or other.pseudo_labels,
        )

    def __post_init__(self) -> None:
        """Drop repetitions, which would be the same runs twice."""
        for name in ("trainers", "labeled", "seeds"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))


@dataclass(frozen=True)
class Fold:
    """One entry of the benchmark's ``splits_final.json``; its position there is nnU-Net's fold."""

    part: int
    seed: int
    labeled: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    unlabeled: tuple[str, ...]

    @property
    def key(self) -> tuple[int, int, str]:
        """What the fold is for."""
        return self.part, self.seed, self.labeled


@dataclass(frozen=True)
class Run:
    """One training with everything that follows from it.

    Attributes:
        method: trainer, or ``PSEUDO_LABELS``.
        part: which test set.
        seed: of the labelled cases and of the training.
        labeled: number of labels, as typed.
        fold: position in ``Plan.folds``.
        in_parts: whether there are several test sets.
    """

    method: str
    part: int
    seed: int
    labeled: str
    fold: int
    in_parts: bool = False

    @property
    def name(self) -> str:
        """Unique within the benchmark; also its folder."""
        part = f"/part_{self.part}" if self.in_parts else ""
        return f"{self.method}/labeled_{self.labeled}/seed_{self.seed}{part}"


@dataclass(frozen=True)
class Plan:
    """A whole benchmark.

    Attributes:
        settings: what stays.
        wish: what is compared.
        tests: test cases of each part; one part unless ``settings.folds``.
        folds: see ``Fold``.
        bare: the scans of ``imagesUn`` that are used.
    """

    settings: Settings
    wish: Wish
    tests: tuple[tuple[str, ...], ...]
    folds: tuple[Fold, ...]
    bare: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For ``benchmark.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Plan:
        """Read ``benchmark.json``.

        Raises:
            DataError: it is something else.
        """
        try:
            folds = tuple(Fold(**_with_tuples(fold)) for fold in content["folds"])
            tests = tuple(tuple(part) for part in content["tests"])
            wish = Wish(**_with_tuples(content["wish"]))
            return cls(Settings(**content["settings"]), wish, tests, folds, tuple(content["bare"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"This benchmark.json was not written by 'nnUNetv2_ssl benchmark' ({error})."
            ) from error

    def runs(self) -> list[Run]:
        """Every run, in the order in which they are best done.

        One seed complete, then the next. Baseline and upper bound come first: what lies between them is all
        that there is to be gained, and worth knowing before the rest is trained.
        """
        seeds = {seed: i for i, seed in enumerate(self.wish.seeds)}
        runs = [
            Run(method, fold.part, fold.seed, fold.labeled, k, self.settings.folds > 0)
            for k, fold in enumerate(self.folds)
            for method in self._methods(fold)
        ]
        return sorted(
            runs, key=lambda run: (seeds.get(run.seed, len(seeds)), run.part, run.method != BASELINE)
        )

    def baseline_of(self, run: Run) -> Run:
        """The supervised run on the same fold."""
        return dataclasses.replace(run, method=BASELINE)

    def _methods(self, fold: Fold) -> list[str]:
        if not fold.unlabeled and not self.bare:
            return [BASELINE]  # nothing to learn from beside the labels: all others would refuse
        pseudo = [PSEUDO_LABELS] if self.wish.pseudo_labels else []
        return [BASELINE, *pseudo, *(t for t in self.wish.trainers if t != BASELINE)]


def _with_tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
