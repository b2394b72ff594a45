"""Sampling episodes of a finite world, all of them at once, one vectorised step per time step."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.data.trajectories import Trajectories
from cai.ops.readings import Kernel
from cai.ops.sampling import sample_index
from cai.ops.tables import Tables

#: Episodes of an unlimited length that have not ended by then raise an error.
LONGEST_EPISODE = 1_000_000


@dataclass(frozen=True, eq=False)
class ChainSampler:
    """A trajectory distribution on a finite world.

    Attributes:
        tables: The world.
        initial: `[S]`, the distribution of s_0.
        act: Draws actions `[N]` for states `[N]` at time t.
        kernel: Gives the kernel of step t.
    """

    tables: Tables
    initial: Tensor
    act: Callable[[Tensor, int], Tensor]
    kernel: Callable[[int], Kernel]

    def sample(self, num: int, length: int | None, generator: torch.Generator) -> Trajectories:
        """Draws episodes; one stops on entering a terminal state, or where the kernel does not survive.

        Args:
            num: Number of episodes N.
            length: The most actions an episode may take, or None to wait for its end.
            generator: The source of randomness.

        Raises:
            ValueError: A negative number, or an episode that does not end.
        """
        for name, number in (("number of episodes", num), ("length", length)):
            if number is not None and (not isinstance(number, numbers.Integral) or number < 1):
                raise ValueError(f"sample: the {name} must be a whole number of at least 1, got {number}")
        state = sample_index(self.initial.detach().expand(num, -1), generator)
        running = ~self.tables.terminal[state]
        states: list[Tensor] = [state]
        actions: list[Tensor] = []
        rewards: list[Tensor] = []
        lengths = torch.zeros_like(state)
        while running.any() and (length is None or len(actions) < length):
            t = len(actions)
            if t >= LONGEST_EPISODE:
                raise ValueError(f"an episode has not ended after {LONGEST_EPISODE:,} steps; give length=")
            action, kernel = self.act(state, t), self.kernel(t)
            going = torch.where(running, torch.arange(num, device=state.device), running.nonzero()[0])
            following = kernel.arrival.sample(state[going], action[going], generator)  # never from where one has ended
            following = torch.where(running, following, state)
            actions.append(action)
            rewards.append(torch.where(running, reward_of_step(self.tables, t, state, action, following), 0.0))
            states.append(following)
            lengths += running
            running = running & ~self.tables.terminal[following] & self._survives(kernel, following, generator)
            state = following
        missing = (length or len(actions)) - len(actions)
        return Trajectories(
            states=torch.stack(states + [state] * missing, 1),
            actions=_columns(actions + [torch.zeros_like(state)] * missing, num, state),
            rewards=_columns(rewards + [torch.zeros_like(self.initial[:1]).expand(num)] * missing, num, self.initial),
            lengths=lengths,
            terminated=~running,
        )

    @staticmethod
    def _survives(kernel: Kernel, state: Tensor, generator: torch.Generator) -> Tensor:
        if kernel.survival is None:
            return torch.ones_like(state, dtype=torch.bool)
        chance = kernel.survival.log_goes_on.detach().exp()[state]
        return torch.rand(chance.shape, dtype=chance.dtype, device=chance.device, generator=generator) < chance


def episodes_of(tables: Tables, states: Tensor, actions: Tensor) -> Trajectories:
    """Reads paths of states `[N, T + 1]` and actions `[N, T]` as episodes that stop on entering a terminal state."""
    ended = tables.terminal[states]
    lengths = (~ended[:, :-1]).long().cumprod(1).sum(1)
    running = torch.arange(actions.shape[1], device=actions.device) < lengths[:, None]
    rewards = [
        reward_of_step(tables, t, states[:, t], actions[:, t], states[:, t + 1]) for t in range(actions.shape[1])
    ]
    return Trajectories(
        states=states,
        actions=actions,
        rewards=torch.where(running, torch.stack(rewards, 1), 0.0),
        lengths=lengths,
        terminated=ended.gather(1, lengths[:, None])[:, 0],
    )


def reward_of_step(tables: Tables, t: int, state: Tensor, action: Tensor, following: Tensor) -> Tensor:
    """Reads r_t(s, a, s') of triples `[N]`, detached: `[N]`, reward units."""
    step = tables.step(t)
    reward = step.rewards.detach()[state, action]
    if step.entry_rewards is None:
        return reward
    return reward + step.transitions.entry(step.entry_rewards.detach(), state, action, following)


def _columns(parts: list[Tensor], num: int, like: Tensor) -> Tensor:
    """Stacks what happened at each time, `[N]`, to `[N, T]`; T may be zero, where every episode starts at its end."""
    return torch.stack(parts, 1) if parts else like.new_zeros(num, 0)
