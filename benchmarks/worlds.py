"""Steps a second of worlds, in which learners collect transitions, against bare gymnasium loops.

    python benchmarks/worlds.py                            (a minute; needs the extra "envs")

Ours gives checked transitions with the true next state, terminations and truncations apart, and episodes counted. The
bare loop steps and resets, and looks at nothing: for one copy `env.step` in a loop, for several `gymnasium.make_vec` in
its default mode, which inserts a false transition at each reset. Both take the same actions, drawn beforehand, and take
turns in one process with one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch

import cai
from cai.simulate import world_of

#: Environment, copies, mode of ours, mode of `make_vec` (None: a single environment), steps a turn.
CASES = (
    ("CartPole-v1", 1, None, None, 2_000),
    ("HalfCheetah-v5", 1, None, None, 1_000),
    ("CartPole-v1", 8, "vector_entry_point", "vector_entry_point", 1_000),
    ("CartPole-v1", 8, "sync", "sync", 500),
    ("Pendulum-v1", 8, "sync", "sync", 500),
    ("Pendulum-v1", 8, "async", "async", 200),
    ("FrozenLake-v1", 64, None, "sync", 200),
    ("FrozenLake-v1", 256, None, "sync", 50),
)


def actions_of(env_id: str, shape: tuple[int, ...]) -> np.ndarray:
    """Actions drawn uniformly, `[*shape, ...]`."""
    space = gymnasium.make(env_id).action_space
    rng = np.random.default_rng(0)
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(0, space.n, shape)
    return rng.uniform(space.low, space.high, (*shape, *space.shape)).astype(np.float32)


def ours(env_id: str, num: int, mode: str | None, steps: int) -> Callable[[], None]:
    """A turn of a world; FrozenLake's tables are stepped all at once."""
    made = world_of(cai.from_gym(env_id), num, vectorization_mode=mode)
    made.reset(0)
    actions = actions_of(env_id, (steps, num))

    def turn() -> None:
        for action in actions:
            made.step(action)
        made.episodes()

    return turn


def bare_single(env_id: str, steps: int) -> Callable[[], None]:
    """A turn of one environment, reset by hand."""
    env = gymnasium.make(env_id)
    env.reset(seed=0)
    actions = actions_of(env_id, (steps,))

    def turn() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return turn


def bare_vector(env_id: str, num: int, mode: str, steps: int) -> Callable[[], None]:
    """A turn of gymnasium's own vector environment."""
    env = gymnasium.make_vec(env_id, num, vectorization_mode=mode)
    env.reset(seed=0)
    actions = actions_of(env_id, (steps, num))

    def turn() -> None:
        for action in actions:
            env.step(action)

    return turn


def seconds(turn: Callable[[], None]) -> float:
    """Seconds of one turn."""
    started = time.perf_counter()
    turn()
    return time.perf_counter() - started


def main() -> None:
    """Prints a row a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{'':42}{'ours, steps/s':>15}{'bare, steps/s':>15}{'ratio':>8}{'us a step more':>16}")
    for env_id, num, mode, bare_mode, steps in CASES:
        bare = bare_single(env_id, steps) if bare_mode is None else bare_vector(env_id, num, bare_mode, steps)
        turns = (ours(env_id, num, mode, steps), bare)
        times = [[seconds(turn) for turn in turns] for _ in range(rounds + 1)][1:]
        own, other = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(theirs / mine for mine, theirs in times)
        name = (
            f"{env_id}, {num} cop{'y' if num == 1 else 'ies'}, {mode or 'by itself' if num == 1 else mode or 'tables'}"
        )
        more = 1e6 * (own - other) / steps
        print(f"{name:42}{steps * num / own:15,.0f}{steps * num / other:15,.0f}{ratio:8.2f}{more:16.1f}", flush=True)


if __name__ == "__main__":
    main()
