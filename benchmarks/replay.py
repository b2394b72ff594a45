"""Replay buffers: adding a transition, and drawing 256 of a million, against Stable-Baselines3's and bare arrays.

    python benchmarks/replay.py --peer-python PATH/TO/python      (an environment with stable-baselines3 2.9.2)
    python benchmarks/replay.py                                   (without that peer)

Transitions have HalfCheetah's shapes: states of 17 float32, actions of 6. A call is 1,000 adds or draws, so that
milliseconds of a call are microseconds of one; processor time, so that other work counts little. Bare arrays are the
floor: five columns, written by numpy, read by `index_select`, and nothing else. Workers are processes of their own and
take turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NUM_ROWS, BATCH, NUM_CALLS = 1_000_000, 256, 1_000


def one_step() -> Any:
    """A step of one copy, as worlds give it."""
    from types import SimpleNamespace

    import numpy as np

    rng, no = np.random.default_rng(0), np.zeros(1, bool)
    return SimpleNamespace(
        states=rng.normal(size=(1, 17)).astype(np.float32),
        actions=rng.normal(size=(1, 6)).astype(np.float32),
        rewards=rng.normal(size=1),
        next_states=rng.normal(size=(1, 17)).astype(np.float32),
        terminated=no,
        truncated=no,
        valid=~no,
    )


def bare(call: str) -> None:
    """Columns of numpy with views in torch."""
    import itertools

    import numpy as np
    import torch
    from worker import serve

    step, names = one_step(), ("states", "actions", "rewards", "next_states", "terminated")
    given = [getattr(step, name)[0] for name in names]
    columns = [np.repeat(values[None].astype(np.float32), NUM_ROWS, 0) for values in given[:-1]]
    columns.append(np.zeros(NUM_ROWS, bool))
    views, rows = [torch.from_numpy(column) for column in columns], itertools.cycle(range(NUM_ROWS))

    def add() -> None:
        for row in itertools.islice(rows, NUM_CALLS):
            for column, values in zip(columns, given, strict=True):
                column[row] = values

    def sample() -> None:
        for _ in range(NUM_CALLS):
            indices = torch.randint(NUM_ROWS, (BATCH,))
            [view.index_select(0, indices) for view in views]

    serve({"add": add, "sample": sample}[call], calls=1, clock=time.process_time)


def ours(call: str, kind: str, n_step: str) -> None:
    """A full buffer of `cai`; with priorities, drawing includes setting those of the batch."""
    import numpy as np
    import torch
    from worker import serve

    import cai

    layout = {"states": ((17,), np.float32), "actions": ((6,), np.float32), "discount": 0.99}
    buffer = getattr(cai.data, kind)(NUM_ROWS, n_step=int(n_step), **layout)
    step, log_ratios, errors = one_step(), np.zeros(1), torch.rand(BATCH)
    for _ in range(NUM_ROWS):
        buffer.add(step, log_ratios)

    def add() -> None:
        for _ in range(NUM_CALLS):
            buffer.add(step, log_ratios)

    def sample() -> None:
        for _ in range(NUM_CALLS):
            buffer.sample(BATCH)

    def sample_and_update() -> None:
        for _ in range(NUM_CALLS):
            buffer.update(buffer.sample(BATCH).indices, errors)

    calls: dict[str, Callable[[], None]] = {"add": add, "sample": sample, "update": sample_and_update}
    serve(calls[call], calls=1, clock=time.process_time)


WORKERS = {"bare": bare, "ours": ours}


def main() -> None:
    """Runs the director, or one of its workers."""
    from interleave import director_options, interleaved, report

    options = director_options(__doc__.splitlines()[0], WORKERS, peer="stable-baselines3 2.9.2", rounds=15)
    if options is None:
        return
    me = [sys.executable, str(Path(__file__).resolve()), "--worker"]
    for call, title in (
        ("add", f"{NUM_CALLS:,} adds"),
        ("sample", f"{NUM_CALLS:,} batches of {BATCH} of {NUM_ROWS:,}"),
    ):
        with_priorities = "add" if call == "add" else "update"
        workers = {
            "bare arrays": [*me, "bare", call],
            "cai ReplayBuffer": [*me, "ours", call, "ReplayBuffer", "1"],
            "cai ReplayBuffer, three steps": [*me, "ours", call, "ReplayBuffer", "3"],
            "cai PrioritisedReplayBuffer": [*me, "ours", with_priorities, "PrioritisedReplayBuffer", "1"],
        }
        against = "bare arrays"
        if options.peer_python:
            against = "stable-baselines3"
            workers[against] = [options.peer_python, str(HERE / "peers" / "sb3_replay.py"), call]
        print(f"\n{title}")
        print(report(interleaved(workers, options.rounds), against))


if __name__ == "__main__":
    main()
