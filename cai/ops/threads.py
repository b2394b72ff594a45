"""Threads: one for small tables, one a block for large ones.

A step of message passing on a small table is some twenty operations of microseconds each. Sharing one of them out over
two threads gains nothing, and on a busy machine each waits for a thread that has lost its core: on gymnasium's Taxi a
pass of 200 steps then took 2.6 seconds in the place of 0.02.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Answer = TypeVar("Answer")

#: Tables of fewer entries are passed over by one thread.
SMALL = 2**20


@contextmanager
def threads_for(num_entries: int) -> Iterator[None]:
    """Runs with one thread if the table is small; the process's number of threads is put back afterwards.

    Args:
        num_entries: Number of entries of the table.
    """
    with one_thread() if num_entries < SMALL else nullcontext():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs with one thread; the process's number of threads is put back afterwards."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(work: Callable[[Part], Answer], parts: Sequence[Part]) -> list[Answer]:
    """Does a piece of work on each of several parts, by as many threads as torch uses, each with one of its own.

    torch's own threads share out one operation at a time, and wait for each other after each; parts that are worked on
    from end to end by one thread stay in the cache of its core.

    Args:
        work: What to do; it must not write where another part's work reads.
        parts: What to do it on.

    Returns:
        The answers, in the order of the parts.
    """
    num_threads = min(torch.get_num_threads(), len(parts))
    if num_threads == 1:
        return [work(part) for part in parts]
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def run(part: Part) -> Answer:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return work(part)

    return list(_workers(num_threads).map(run, parts))


@cache
def _workers(num_threads: int) -> ThreadPoolExecutor:
    before, started = torch.get_num_threads(), threading.Barrier(num_threads)
    pool = ThreadPoolExecutor(num_threads, "cai", initializer=_alone)
    list(pool.map(lambda _: started.wait(), range(num_threads)))
    torch.set_num_threads(before)  # what threads yet to come begin with is the process's own number
    return pool


def _alone() -> None:
    """Gives this thread no helpers. Asked for its number first, torch sets a new thread's later, and undoes ours."""
    torch.get_num_threads()
    torch.set_num_threads(1)


os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork
