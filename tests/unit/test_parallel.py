"""Jobs in this process and in others give the same, errors come through, and a killed worker is named."""

import os
import signal

import pytest

from nnunet_ssl.errors import DataError
from nnunet_ssl.parallel import run_jobs


def square(value):
    if value < 0:
        raise ValueError(f"negative: {value}")
    return value * value


def kill_this_process(value):
    os.kill(os.getpid(), signal.SIGKILL)


def test_in_this_process_jobs_keep_their_order():
    assert list(run_jobs(square, [3, 1, 2], 1)) == [(0, 9), (1, 1), (2, 4)]
    assert list(run_jobs(lambda _: os.getpid(), [0, 0], 4, few=2)) == [
        (0, os.getpid()),
        (1, os.getpid()),
    ]


def test_nothing_to_do():
    assert list(run_jobs(square, [], 4)) == []


def test_an_error_comes_through_after_what_was_done():
    results = run_jobs(square, [2, -1], 1)
    assert next(results) == (0, 4)
    with pytest.raises(ValueError, match="negative: -1"):
        next(results)


@pytest.mark.slow
def test_workers_give_the_same_and_one_that_is_killed_is_an_error():
    assert sorted(run_jobs(square, [3, 1, 2], 2)) == [(0, 9), (1, 1), (2, 4)]
    with pytest.raises(DataError, match="killed.*-np 1"):
        list(run_jobs(kill_this_process, [1, 2], 2))
