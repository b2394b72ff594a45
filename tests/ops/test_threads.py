"""The number of threads is the process's own: changed for small tables only, and put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cai.ops.threads import SMALL, threads_for


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("num_entries", "inside"), [(10, 1), (SMALL - 1, 1), (SMALL, 2)])
def test_small_tables_take_one_thread(num_entries: int, inside: int) -> None:
    with threads_for(num_entries):
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == 2


def test_threads_are_put_back_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside"), threads_for(10):
        raise RuntimeError("inside")
    assert torch.get_num_threads() == 2
