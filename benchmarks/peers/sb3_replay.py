"""The peer's worker: the replay buffer of stable-baselines3 2.9.2, full, of one environment.

Runs in an environment of its own; `benchmarks/README.md` says how to make it. The argument is `add` or `sample`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from worker import serve

NUM_ROWS, BATCH, NUM_CALLS = 1_000_000, 256, 1_000
states = spaces.Box(-np.inf, np.inf, (17,), np.float32)
buffer = ReplayBuffer(NUM_ROWS, states, spaces.Box(-1, 1, (6,), np.float32), device="cpu")
rng = np.random.default_rng(0)
state, action, next_state = (rng.normal(size=(1, size)).astype(np.float32) for size in (17, 6, 17))
reward, done = np.array([0.5]), np.array([False])
for column in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
    column[:] = 1.0
buffer.dones[:], buffer.full = 0.0, True


def add() -> None:
    """A thousand transitions."""
    for _ in range(NUM_CALLS):
        buffer.add(state, next_state, action, reward, done, [{}])


def sample() -> None:
    """A thousand batches."""
    for _ in range(NUM_CALLS):
        buffer.sample(BATCH)


serve({"add": add, "sample": sample}[sys.argv[1]], calls=1, clock=time.process_time)
