"""What the adapter checks and logs, apart from a whole training."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.methods.mean_teacher import MeanTeacher
from nnunet_ssl.methods.versemi import VerSemi
from nnunet_ssl.training.adapter import SSLTrainer
from nnunet_ssl.training.curves import ended


def trainer(method, labeled, unlabeled, uses_unlabeled=True):
    asked = SimpleNamespace(least_batch=method.least_batch, uses_unlabeled=uses_unlabeled)
    return SimpleNamespace(method=asked, batch_size=labeled, _unlabeled_batch_size=lambda: unlabeled)


@pytest.mark.parametrize(("labeled", "unlabeled"), [(1, 2), (2, 1), (1, 1)])
def test_pairs_need_two(labeled, unlabeled):
    with pytest.raises(
        ConfigError, match=f"expected 2 or more .*found {labeled} and {unlabeled}. Take fewer"
    ):
        SSLTrainer._check_batch(trainer(VerSemi, labeled, unlabeled))
    SSLTrainer._check_batch(trainer(MeanTeacher, labeled, unlabeled))


def test_pairs_that_are_not_drawn_need_none():
    SSLTrainer._check_batch(trainer(VerSemi, 2, 2))
    SSLTrainer._check_batch(trainer(VerSemi, 2, 1, uses_unlabeled=False))


def test_curves_that_ended_go_on_without_values():
    history = {"train_losses": [1.0], "ssl/labeled": [1.0], "ssl_monitor/coverage": [0.1]}
    silent = ended(history, {"ssl/labeled": 0.5})
    assert list(silent) == ["ssl_monitor/coverage"] and math.isnan(silent["ssl_monitor/coverage"])
