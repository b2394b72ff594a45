"""Where a learning run stands: its world, its learner, its memory of transitions, and what it logged."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from cai.data.serialization import serializable
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.history import History
from cai.methods.sampling.learner import AbstractLearner
from cai.simulate.seeding import RandomState
from cai.simulate.worlds import AbstractWorld

#: Episodes whose mean return is logged.
_NUM_EPISODES = 100


@dataclass(eq=False)
class Run:
    """A learning run; it changes with every step.

    Attributes:
        graph: The graph that was asked.
        learner: What learns.
        random: The random numbers of the run.
        world: What is acted in; None where the data was recorded.
        replay: What was seen, where the method keeps it.
        history: What was logged.
        num_steps: Environment steps done (of recorded data, updates).
        num_updates: Gradient steps, or sweeps, done.
        num_episodes: Episodes ended.
        owed: The fraction of an update that is due.
        waiting: Environment steps since the last bout of learning.
        returns: Returns of the last episodes, reward units.
        lengths: Their lengths.
        started: Whether the world has been reset.
    """

    graph: TrajectoryGraph
    learner: AbstractLearner
    random: RandomState
    world: AbstractWorld | None
    replay: Any = None
    history: History = field(default_factory=History)
    num_steps: int = 0
    num_updates: int = 0
    num_episodes: int = 0
    owed: float = 0.0
    waiting: int = 0
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_EPISODES))
    lengths: deque[int] = field(default_factory=lambda: deque(maxlen=_NUM_EPISODES))
    started: bool = False

    def start(self) -> None:
        """Resets the world, once."""
        if not self.started and self.world is not None:
            self.world.reset(self.random.seed % 2**31)
        self.started = True

    def count_episodes(self) -> None:
        """Takes note of the episodes that ended."""
        assert self.world is not None
        for episode in self.world.episodes():
            self.returns.append(episode.total_reward)
            self.lengths.append(episode.length)
            self.num_episodes += 1

    def row(self) -> dict[str, float]:
        """Gives what is logged of the last piece of work."""
        row: dict[str, float] = {"num_steps": self.num_steps, "num_updates": self.num_updates}
        if self.returns:
            row["return"] = sum(self.returns) / len(self.returns)
            row["episode_length"] = sum(self.lengths) / len(self.lengths)
        if self.world is not None:
            row["num_episodes"] = self.num_episodes
        return row | {"temperature": self.learner.temperature} | self.learner.metrics.means()

    def remember(self, memory: RunMemory) -> None:
        """Goes on from a checkpoint; a world that cannot be put back begins new episodes."""
        parts = memory.parts
        self.learner.remember(parts["learner"])
        self.random.remember(parts["random"])
        self.random.seed = parts["seed"]
        self.history = parts["history"]
        for name in _COUNTS:
            setattr(self, name, parts[name])
        self.returns.extend(parts["returns"])
        self.lengths.extend(parts["lengths"])
        if self.replay is not None and parts["replay"] is not None:
            self.replay.remember(parts["replay"])
        if self.world is not None:
            if parts["world"] is not None:
                self.world.remember(parts["world"])
            else:
                self._begin_anew()
            self.started = True

    def _begin_anew(self) -> None:
        """Begins new episodes, by other seeds than those of the episodes that have been."""
        assert self.world is not None
        self.world.reset((self.random.seed + self.num_steps) % 2**31)
        if self.replay is not None:
            self.replay.cut()


_COUNTS = ("num_steps", "num_updates", "num_episodes", "owed", "waiting")


@serializable
class RunMemory:
    """What continues a run: it is made of the run only when it is written.

    Args:
        run: The run; None for one that was read from a file.
        keeps_replay: Whether the transitions seen are written too.

    Attributes:
        parts: What was read.
    """

    def __init__(self, run: Run | None, *, keeps_replay: bool = True) -> None:
        self._run, self._keeps_replay = run, keeps_replay
        self.parts: dict[str, Any] = {}

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        run = self._run
        if run is None:
            return self.parts
        replay = run.replay.memory() if run.replay is not None and self._keeps_replay else None
        return {name: getattr(run, name) for name in _COUNTS} | {
            "seed": run.random.seed,
            "random": run.random.memory(),
            "learner": run.learner.memory(),
            "replay": replay,
            "world": None if run.world is None else run.world.memory(),
            "history": run.history,
            "returns": torch.tensor([*run.returns], dtype=torch.float64).tolist(),
            "lengths": [*run.lengths],
        }

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> RunMemory:
        """Makes the memory of what a file gave."""
        memory = cls(None)
        memory.parts = parts
        return memory
