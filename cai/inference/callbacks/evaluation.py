"""How good the policy is so far."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
from torch import Tensor
from torch.distributions import Distribution

from cai.data import serialization
from cai.factors import greedy_action
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.callbacks.base import AbstractCallback, earlier_rows, need_answers
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior
from cai.simulate.returns import run_episodes, why_no_copies, world_for_episodes
from cai.simulate.worlds import AbstractWorld

#: After how many actions an episode is cut off that neither world nor horizon ends.
LONGEST_EPISODE = 10_000


class Evaluation(AbstractCallback):
    """Runs the policy so far in a world of its own, and keeps the best.

    Adds to the metrics of the step, for the history and for the callbacks that come later in the list, such as loggers:

        evaluation_return           mean over episodes of sum_t r_t, undiscounted, with terminal rewards, reward units
        evaluation_standard_error   of that mean, reward units
        evaluation_length           mean number of actions

    The run's environment and its random numbers are left alone: copies are made anew from the environment's spec, and
    all episodes run at once, episode i reset with seed + i. The last step is evaluated too. A wrapper that learns, such
    as `NormalizeObservation`, learns anew in a copy; give `world` where that matters.

    Args:
        num_episodes: How many episodes.
        interval: Environment steps between two evaluations.
        world: A graph, an environment or its id; by default the graph that the run is on.
        seed: The seed of the first episode.
        choose: From a distribution over actions, any batch, to actions: by default the most probable one,
            `cai.plan.sampled_action` draws.
        path: A file for the posterior of the best evaluation; an old one is replaced by the first that is better.
        length: After how many actions an episode is cut off, if it has not ended before.

    Attributes:
        best_return: The best mean so far, of a run that this one goes on from too, reward units; -inf before the first.
        best_steps: Environment steps at that time.
    """

    def __init__(
        self,
        num_episodes: int = 20,
        interval: int = 5000,
        *,
        world: TrajectoryGraph | gymnasium.Env | str | None = None,
        seed: int = 10_000,
        choose: Callable[[Distribution], Tensor] = greedy_action,
        path: str | os.PathLike | None = None,
        length: int = LONGEST_EPISODE,
    ) -> None:
        for name, number in (("num_episodes", num_episodes), ("interval", interval), ("length", length)):
            if operator.index(number) < 1:
                raise ValueError(f"Evaluation: {name} must be at least 1, got {number}")
        self.num_episodes, self.interval, self.length = num_episodes, interval, length
        self.world, self.seed, self.choose = world, operator.index(seed), choose
        self.path = None if path is None else Path(path)
        self.best_return, self.best_steps = -math.inf, 0
        self._last: int | None = None
        self._copies: AbstractWorld | None = None

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Makes the world.

        Raises:
            IncompatibleMethod: The method has no answer before it is done.
            ValueError: There is no world to run the policy in, or no way to copy the run's.
            FileNotFoundError: There is no directory for the file.
        """
        need_answers(self, method)
        if self.path is not None:
            serialization.remove_leftovers(serialization.need_directory(self.path))
        if self.world is None and (reason := why_no_copies(graph)) is not None:
            raise ValueError(f"Evaluation: the run's own environment is in use, give another by world=: {reason}")
        self.best_return, self.best_steps, self._last = -math.inf, 0, None
        world = graph if self.world is None else self.world
        self._terminal_reward = world.terminal_reward if isinstance(world, TrajectoryGraph) else None
        try:
            self._copies = world_for_episodes(world, self.num_episodes)
        except ValueError as error:
            raise ValueError(
                f"Evaluation: there is no world to run the policy in; give one by world=: {error}"
            ) from error

    def on_step(self, progress: Progress) -> None:
        """Evaluates if it is time."""
        last = self._recall(earlier_rows(progress)) if self._last is None else self._last
        over = progress.total_steps is not None and progress.num_steps >= progress.total_steps
        if progress.num_steps // self.interval > last // self.interval or over:
            self._evaluate(progress)
        self._last = progress.num_steps

    def on_end(self, posterior: Posterior | None) -> None:
        """Closes the world."""
        if self._copies is not None:
            self._copies.close()
            self._copies = None

    def _evaluate(self, progress: Progress) -> None:
        assert progress.posterior is not None and self._copies is not None
        posterior = progress.posterior()
        returns = run_episodes(
            self._copies,
            lambda states: self.choose(posterior.policy(states)),
            self.num_episodes,
            seed=self.seed,
            length=self.length,
            terminal_reward=self._terminal_reward,
        )
        progress.metrics["evaluation_return"] = returns.mean
        progress.metrics["evaluation_standard_error"] = returns.standard_error
        progress.metrics["evaluation_length"] = returns.mean_length
        if returns.mean > self.best_return:
            self.best_return, self.best_steps = returns.mean, progress.num_steps
            if self.path is not None:
                posterior.save(self.path)

    def _recall(self, rows: list[dict[str, float]]) -> int:
        """Goes on from what an earlier part of the run found; gives the steps it took."""
        for row in rows:
            if row.get("evaluation_return", -math.inf) > self.best_return:
                self.best_return, self.best_steps = row["evaluation_return"], int(row["num_steps"])
        return int(rows[-1]["num_steps"]) if rows else 0
