"""What a trainer refuses before it trains, and how its curves go on."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.methods.mean_teacher import MeanTeacher
from nnunet_ssl.methods.versemi import VerSemi
from nnunet_ssl.training.checks import check_batch
from nnunet_ssl.training.curves import ended
from nnunet_ssl.training.versemi import nnUNetTrainerVerSemi


def check(method, labeled, unlabeled, uses_unlabeled=True):
    asked = SimpleNamespace(least_batch=method.least_batch, uses_unlabeled=uses_unlabeled)
    check_batch(nnUNetTrainerVerSemi, asked, labeled, unlabeled)


@pytest.mark.parametrize(("labeled", "unlabeled"), [(1, 2), (2, 1), (1, 1)])
def test_pairs_need_two(labeled, unlabeled):
    with pytest.raises(
        ConfigError, match=f"expected 2 or more .*found {labeled} and {unlabeled}. Take fewer"
    ):
        check(VerSemi, labeled, unlabeled)
    check(MeanTeacher, labeled, unlabeled)


def test_pairs_that_are_not_drawn_need_none():
    check(VerSemi, 2, 2)
    check(VerSemi, 2, 1, uses_unlabeled=False)


def test_curves_that_ended_go_on_without_values():
    history = {"train_losses": [1.0], "ssl/labeled": [1.0], "ssl_monitor/coverage": [0.1]}
    silent = ended(history, {"ssl/labeled": 0.5})
    assert list(silent) == ["ssl_monitor/coverage"] and math.isnan(silent["ssl_monitor/coverage"])
