"""One thread for small tables.

A step of message passing on a small table is some twenty operations of microseconds each. Sharing one of them out over
two threads gains nothing, and on a busy machine each waits for a thread that has lost its core: on gymnasium's Taxi a
pass of 200 steps then took 2.6 seconds in the place of 0.02.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Tables of fewer entries are passed over by one thread.
SMALL = 2**20


@contextmanager
def threads_for(num_entries: int) -> Iterator[None]:
    """Runs with one thread if the table is small; the process's number of threads is put back afterwards.

    Args:
        num_entries: Number of entries of the table.
    """
    before = torch.get_num_threads()
    if before == 1 or num_entries >= SMALL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
