"""The one way to spread work over processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from nnunet_ssl.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    processes: int,
    few: int = 1,
    initializer: Callable[[], object] | None = None,
) -> Iterator[tuple[int, Result]]:
    """Index and result of each job, in the order in which they are done.

    Processes are spawned: a fork after ITK or torch has started threads may hang.

    Args:
        function: can be pickled; its exceptions are raised here.
        jobs: can be pickled.
        processes: with one, or with at most ``few`` jobs, everything runs in this process.
        few: how many jobs do not pay for starting processes, which takes seconds.
        initializer: called in each process before its first job.

    Raises:
        DataError: a process was killed.
    """
    workers = min(processes, len(jobs))
    if workers <= 1 or len(jobs) <= few:
        yield from ((index, function(job)) for index, job in enumerate(jobs))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=initializer) as pool:
        futures = {pool.submit(function, job): index for index, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "A worker process was killed, most likely for want of memory. Use fewer with -np, for "
                "instance -np 1; what is done is kept where a command can be continued."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
