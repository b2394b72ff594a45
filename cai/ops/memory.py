"""How much memory there is, and how much messages take, so that what will not fit is refused before it starts.

Messages of S states and A actions over T steps are T S A + (T + 1) S numbers, without a horizon S A + S; twice that
while gradients are recorded. What a method works with comes on top: a few arrays on pairs, and of a sparse table a few
on its entries. The count is of what is needed at least: what is refused could not have run.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from cai.errors import IncompatibleMethod
from cai.ops.tables import Tables
from cai.ops.transitions import DenseTransitions

GIB = 2**30

#: Arrays [S, A] that a step of any method holds at once, measured on slippery grids; an infinite horizon holds more.
_PAIR_ARRAYS, _PAIR_ARRAYS_INFINITE = 2, 8
#: Arrays on the entries of a sparse table: log-weights of a step; of an infinite horizon the chain and its transpose.
_ENTRY_ARRAYS, _ENTRY_ARRAYS_INFINITE = 2, 4

_logger = logging.getLogger(__name__)


def available_bytes(device: torch.device | str = "cpu") -> int:
    """Gives the memory that can be taken now on a device, in bytes: what is free, and what caches would give back."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    described = Path("/proc/meminfo")
    if described.is_file():
        for line in described.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _limit_of_container())
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limit_of_container() -> int:
    """Bytes that the control group of this process may take; more than any machine has where none is set."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return 2**63
    return 2**63 if limit == "max" else int(limit)


def need_memory(needed: float, usable: float, what: str, advice: str, *, set_by: str = "") -> None:
    """Raises `IncompatibleMethod` where something takes more bytes than may be used.

    Args:
        needed: Bytes that it takes.
        usable: Bytes that it may take.
        what: The method, and what it would hold.
        advice: What would help.
        set_by: The argument that says what may be used.
    """
    if needed > usable:
        by = f" ({set_by}=)" if set_by else ""
        raise IncompatibleMethod(
            f"{what} would need {needed / GIB:.3g} GiB, of which {usable / GIB:.3g} may be used{by}; {advice}"
        )


def message_bytes(tables: Tables) -> int:
    """Estimates, from below, the bytes that backward messages take, with what one step of them works with."""
    step = tables.step(0)
    pairs, num_states = tables.num_states * tables.num_actions, tables.num_states
    values, is_sparse = step.transitions.values, not isinstance(step.transitions, DenseTransitions)
    learns = any(part.requires_grad for part in (values, step.rewards, tables.terminal_values))
    copies = 2 if learns and torch.is_grad_enabled() else 1
    if tables.horizon is None:
        messages, working = pairs + num_states, _PAIR_ARRAYS_INFINITE * pairs
        working += _ENTRY_ARRAYS_INFINITE * values.numel() if is_sparse else 0
    else:
        messages = tables.horizon * pairs + (tables.horizon + 1) * num_states
        working = _PAIR_ARRAYS * pairs + (_ENTRY_ARRAYS * values.numel() if is_sparse else 0)
    return (copies * messages + working) * values.element_size()


def need_memory_for_messages(tables: Tables, name: str, *, max_memory: float | None = None) -> None:
    """States what backward messages will take in the log, and refuses them where it is more than there is.

    Args:
        tables: The world.
        name: The method.
        max_memory: GiB that may be used; None is all that is free.

    Raises:
        IncompatibleMethod: They do not fit; the message has the memory needed and what would help.
    """
    needed, free = message_bytes(tables), available_bytes(tables.terminal_values.device)
    _logger.info(
        "%s: %d states, %d actions, %d entries: messages need %.3g GiB, %.3g GiB are free",
        name, tables.num_states, tables.num_actions, tables.num_entries, needed / GIB, free / GIB,
    )  # fmt: skip
    over, shorter = "", ""
    if tables.horizon is not None:
        over, shorter = f" over {tables.horizon} steps", "a shorter horizon (or none, with a discount), "
    need_memory(
        needed,
        free if max_memory is None else max_memory * GIB,
        f"{name}: messages of {tables.num_states} states and {tables.num_actions} actions{over}",
        f"{shorter}fewer states, or dtype=torch.float32 for dynamics and rewards would make them smaller",
        set_by="" if max_memory is None else "max_memory",
    )
