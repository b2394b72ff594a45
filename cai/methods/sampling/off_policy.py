"""Acting and learning in turns, from a memory of transitions: Q-learning and its kin."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.data.transitions import Transitions
from cai.errors import NonFinite
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.learner import AbstractLearner, Choice
from cai.methods.sampling.method import AbstractSamplingMethod, need_whole_numbers
from cai.methods.sampling.priors import entry
from cai.methods.sampling.replays import AbstractReplay, UniformReplay
from cai.methods.sampling.run import Run
from cai.ops.sampling import sample_index

#: Environment steps, of each copy, between two reports.
_STEPS_A_REPORT = 100


class AbstractOffPolicyLearner(AbstractLearner):
    """A learner that takes a batch of transitions at a time, whoever made them."""

    @abstractmethod
    def learn(self, batch: Transitions) -> Tensor | None:
        """Takes one step on a batch; gives the errors of its rows, `[B]`, reward units, for memories that rank them."""

    def explore(self, states: Any) -> Choice:
        """Chooses uniformly at random, in the first steps; where nothing is uniform, as the untrained policy does."""
        if self.actions.log_volume is None:
            return self.act(states)
        tensor = torch.as_tensor(states)
        if self.actions.is_discrete:
            log_prior = self.prior.log_probs(tensor).expand(len(tensor), -1)
            available = (~torch.isneginf(log_prior)).to(torch.float32)
            joint = sample_index(available)
            log_ratios = -available.sum(-1).log() - entry(log_prior, joint)
            return Choice(self.actions.to_env(self.actions.from_joint(joint)), log_ratios.numpy())
        drawn = self.actions.from_unit(2.0 * torch.rand(len(tensor), self.actions.size) - 1.0)
        log_ratios = -self.actions.log_volume - self.prior.log_prob(tensor, drawn).expand(len(tensor))
        return Choice(self.actions.to_env(drawn), log_ratios.numpy())


@dataclass(frozen=True)
class AbstractOffPolicyMethod(AbstractSamplingMethod):
    """A method that learns from transitions whoever made them, and keeps them.

    Attributes:
        replay: Which transitions are kept, and how they are drawn.
        learning_starts: Environment steps with actions drawn uniformly, before anything is learned.
        train_every: Environment steps between two bouts of learning.
        updates_per_step: Updates for each environment step.
        batch_size: Transitions in an update.
        n_step: Steps of reward in a target.
    """

    replay: AbstractReplay = UniformReplay()
    learning_starts: int = 100
    train_every: int = 1
    updates_per_step: float = 1.0
    batch_size: int = 256
    n_step: int = 1

    @abstractmethod
    def learner(self, graph: TrajectoryGraph) -> AbstractOffPolicyLearner:
        """Makes what learns, untrained."""

    def memory(self, graph: TrajectoryGraph) -> Any:
        """Makes the memory of transitions."""
        return self.replay.buffer(graph, self.num_envs, self.n_step)

    @property
    def keeps_replay(self) -> bool:
        """Whether checkpoints keep the transitions seen."""
        return self.replay.kept

    def check(self, graph: TrajectoryGraph) -> None:
        """Raises ValueError for bad hyper-parameters."""
        need_whole_numbers(self, "train_every", "batch_size", "n_step")
        need_whole_numbers(self, "learning_starts", least=0)
        if not 0.0 < self.updates_per_step < math.inf:
            raise ValueError(f"{type(self).__name__}: updates_per_step must be positive, got {self.updates_per_step!r}")
        if not isinstance(self.replay, AbstractReplay):
            raise ValueError(f"{type(self).__name__}: replay must be such as UniformReplay(), got {self.replay!r}")

    def advance(self, run: Run) -> None:
        """Acts and learns for some steps; where the data was recorded, only learns."""
        for _ in range(_STEPS_A_REPORT):
            if run.num_steps >= self.num_steps:
                break
            if run.world is None:
                self._learn(run, 1)
                run.num_steps += 1
            else:
                self._act(run)
                self._learn(run, self._updates_due(run))

    def _act(self, run: Run) -> None:
        learner, world = run.learner, run.world
        assert isinstance(learner, AbstractOffPolicyLearner)
        assert world is not None
        explores = run.num_steps < self.learning_starts
        with torch.no_grad():
            choice = learner.explore(world.states) if explores else learner.act(world.states)
        step = world.step(choice.actions)
        run.replay.add(step, choice.log_ratios)
        num = int(np.count_nonzero(step.valid))
        run.num_steps += num
        run.waiting += 0 if explores else num
        run.count_episodes()

    def _updates_due(self, run: Run) -> int:
        """Says how many updates the steps since the last bout of learning call for; fractions are kept."""
        if run.waiting < self.train_every:
            return 0
        due = run.owed + run.waiting * self.updates_per_step
        run.waiting, run.owed = 0, due % 1.0
        return int(due)

    def _learn(self, run: Run, num_updates: int) -> None:
        assert isinstance(run.learner, AbstractOffPolicyLearner)
        for _ in range(num_updates):
            batch = self.replay.sample(run.replay, self.batch_size, run.learner.share).to(run.learner.device)
            try:
                errors = run.learner.learn(batch)
            except NonFinite as error:
                raise NonFinite(f"{type(self).__name__}: at update {run.num_updates + 1}, {error}") from None
            self.replay.update(run.replay, batch, errors)
            run.num_updates += 1
