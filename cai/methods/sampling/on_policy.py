"""Acting for a while, then learning from just that: policy gradients and their kin."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.errors import NonFinite
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.learner import AbstractLearner
from cai.methods.sampling.method import AbstractSamplingMethod, need_whole_numbers
from cai.methods.sampling.run import Run
from cai.simulate.worlds import Step


@dataclass(frozen=True, eq=False)
class Rollout:
    """What happened in L steps of E copies, time first; states and actions are the environment's own.

    Attributes:
        states: `[L, E, ...]`.
        actions: `[L, E, ...]`.
        rewards: `[L, E]`, reward units.
        next_states: `[L, E, ...]`, the true successors, never those of a reset.
        terminated: `[L, E]`, bool: the episode ended in the world.
        truncated: `[L, E]`, bool: it was cut off.
        valid: `[L, E]`, bool: False where the row is a reset and no transition.
        log_ratios: `[L, E]`, log pi(a|s) - log mu(a|s) of the policy that acted, nats.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    log_ratios: Tensor

    @property
    def ended(self) -> Tensor:
        """Where nothing goes on to the next row: `[L, E]`, bool."""
        return self.terminated | self.truncated | ~self.valid

    def to(self, device: torch.device | str) -> Rollout:
        """Moves everything to a device."""
        return Rollout(**{name: value.to(device) for name, value in vars(self).items()})


def rollout_of(steps: list[Step], log_ratios: list[Any]) -> Rollout:
    """Stacks steps."""
    names = ("states", "actions", "rewards", "next_states", "terminated", "truncated", "valid")
    columns = {name: torch.from_numpy(np.stack([getattr(step, name) for step in steps])) for name in names}
    return Rollout(**columns, log_ratios=torch.from_numpy(np.stack(log_ratios)))


class AbstractOnPolicyLearner(AbstractLearner):
    """A learner that takes what its own policy has just done."""

    @property
    def needs_whole_episodes(self) -> bool:
        """Whether every rollout begins and ends where episodes do."""
        return False

    @abstractmethod
    def learn_from(self, rollout: Rollout) -> int:
        """Learns from a rollout; gives the number of updates taken."""


@dataclass(frozen=True)
class AbstractOnPolicyMethod(AbstractSamplingMethod):
    """A method that learns from what its own policy has just done.

    A learner that needs whole episodes gets those that a copy began within `steps_per_rollout` steps; copies that are
    done with theirs before the last one go on until it is, and what they do then is not learned from.

    Attributes:
        steps_per_rollout: Steps of each copy between two bouts of learning.
    """

    steps_per_rollout: int = 2048

    @abstractmethod
    def learner(self, graph: TrajectoryGraph) -> AbstractOnPolicyLearner:
        """Makes what learns, untrained."""

    def check(self, graph: TrajectoryGraph) -> None:
        """Raises ValueError for bad hyper-parameters."""
        need_whole_numbers(self, "steps_per_rollout")

    def advance(self, run: Run) -> None:
        """Acts for one rollout and learns from it."""
        learner = run.learner
        assert isinstance(learner, AbstractOnPolicyLearner)
        rollout = self._acted(run).to(learner.device)
        try:
            run.num_updates += learner.learn_from(rollout)
        except NonFinite as error:
            raise NonFinite(f"{type(self).__name__}: after update {run.num_updates}, {error}") from None

    def _acted(self, run: Run) -> Rollout:
        world, learner = run.world, run.learner
        assert world is not None and isinstance(learner, AbstractOnPolicyLearner)
        whole = learner.needs_whole_episodes
        if whole and self.num_envs > 1 and run.num_steps:  # copies stand somewhere in episodes that were given up
            world.reset(int(torch.randint(2**31, ())))
        steps, log_ratios = list[Step](), list[Any]()
        goes_on = np.ones(self.num_envs, dtype=np.bool_)
        while len(steps) < self.steps_per_rollout or (whole and goes_on.any()):
            with torch.no_grad():
                choice = learner.act(world.states)
            step = world.step(choice.actions)
            run.num_steps += int(np.count_nonzero(step.valid))
            steps.append(replace(step, valid=step.valid & goes_on) if whole else step)
            log_ratios.append(choice.log_ratios)
            if len(steps) >= self.steps_per_rollout:
                goes_on &= ~step.done
                self._check_patience(len(steps))
        run.count_episodes()
        return rollout_of(steps, log_ratios)

    def _check_patience(self, num_steps: int) -> None:
        if num_steps > _PATIENCE * self.steps_per_rollout + _LONGEST:
            raise ValueError(
                f"{type(self).__name__}: an episode goes on after {num_steps} steps, and without a critic episodes "
                "must end; give the graph a horizon, or the method a critic"
            )


#: An episode that is so many rollouts and steps longer than a rollout is taken for one without end.
_PATIENCE, _LONGEST = 10, 10_000
