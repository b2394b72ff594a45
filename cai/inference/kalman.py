"""The posterior of hidden states given observations and actions: forward and backward messages of a state space."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.factors.checks import whole_numbers
from cai.factors.distributions import DegenerateNormal
from cai.factors.linear_parts import part_at
from cai.graph.recording import Recording
from cai.graph.state_spaces import in_time
from cai.inference.posterior import Posterior
from cai.ops.caching import grad_cached_property
from cai.ops.gaussian.kalman import LOOP, SCAN, Filtered, Passes
from cai.ops.gaussian.marginals import Moments
from cai.ops.gaussian.smoother import smoothing_samples
from cai.ops.gaussian.state_space import Correction, StateSpace
from cai.ops.scans.time_schedules import AssociativeScan, Sequential
from cai.simulate.seeding import seeded

for _part in (Moments, StateSpace, Correction, Filtered):
    serializable(_part)


def passes_of(schedule: Sequential | AssociativeScan) -> Passes:
    """Gives the recursions of a schedule."""
    return SCAN if isinstance(schedule, AssociativeScan) else LOOP


@serializable
@dataclass(frozen=True, eq=False)
class KalmanPosterior(Posterior):
    """Where the states were, given what was observed and done: p(x_t | y_0..y_T, u), or p(x_t | y_0..y_t, u).

    Of N sequences everything that is read has a batch `[T + 1, N]`. Rewards are no part of the question, so that there
    is no q, v, advantage or return; the policy is the actions that were taken.

    Attributes:
        filtered: The forward messages.
        smoothed: The moments given all observations, `[T + 1, *batch, ...]`; None of a filter alone.
        schedule: How time was gone through.
    """

    filtered: Filtered
    smoothed: Moments | None
    schedule: Sequential | AssociativeScan

    @property
    def state_marginals(self) -> DegenerateNormal:  # type: ignore[override]
        """Distribution of each state: a batch `[T + 1, *batch]`; of a filter given the observations up to its time."""
        return _distribution(self.filtered.moments if self.smoothed is None else self.smoothed)

    @property
    def filtered_marginals(self) -> DegenerateNormal:
        """Distribution of each state given the observations up to its time: a batch `[T + 1, *batch]`."""
        return _distribution(self.filtered.moments)

    @property
    def predicted_marginals(self) -> DegenerateNormal:
        """Distribution of each state given the observations before its time: a batch `[T + 1, *batch]`."""
        return _distribution(self.filtered.predicted)

    @property
    def log_evidence(self) -> Tensor:
        """The log-likelihood log p(y_0..y_T | u): 0-dim (or `[*batch]`), nats. Not of the optimality."""
        return self.filtered.log_likelihood

    @property
    def is_bound(self) -> bool:
        """False: the evidence is exact."""
        return False

    def policy(self, state: Any, t: Any = 0) -> DegenerateNormal:
        """Gives the action taken at time t, a point mass, whatever the state; see `Posterior.policy`."""
        n = self.filtered.space.transition.shape[-1]
        vector = state if isinstance(state, Tensor) else torch.as_tensor(np.asarray(state))
        if not vector.dim() or vector.shape[-1] != n:
            raise ValueError(f"state: expected vectors [..., {n}], got shape {list(vector.shape)}")
        time = whole_numbers(t, "t")
        actions = in_time(self._recording.actions)
        if (time < 0).any() or (time >= len(actions)).any():
            raise ValueError(f"t: expected whole numbers within 0..{len(actions) - 1}, got {t!r}")
        action = part_at(actions, int(time) if not time.dim() else time, 1, "t")
        mean = action.expand(*torch.broadcast_shapes(vector.shape[:-1], action.shape[:-1]), action.shape[-1])
        return DegenerateNormal(mean, mean.new_zeros(*mean.shape, mean.shape[-1]))

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Draws trajectories of states given all observations, with the actions taken.

        Args:
            num: How many for each sequence; those of the first sequence come first, `[num * N]` in all.
            seed: The seed; None takes fresh entropy.
            length: Their number of actions, from the start; T by default.
        """
        smoothed = self._smoothed("sample", "a filter's marginals are no distribution of trajectories")
        horizon = self.filtered.space.horizon
        for name, number, most in (("num", num, None), ("length", length, horizon)):
            whole = isinstance(number, numbers.Integral) and number >= 1 and (most is None or number <= most)
            if not whole and (number is not None or name == "num"):
                allowed = "of at least 1" if most is None else f"within 1..{most}"
                raise ValueError(f"sample: {name} must be a whole number {allowed}, got {number!r}")
        with torch.no_grad(), seeded(seed, smoothed.means.device):
            drawn = smoothing_samples(self.filtered, smoothed.means, int(num), passes_of(self.schedule))
        return self._trajectories(drawn.movedim(1, -2), horizon if length is None else int(length))

    @property
    def most_probable_trajectory(self) -> Trajectories:
        """The mean of the states, which is their mode, with the actions taken: one for each sequence."""
        smoothed = self._smoothed("most_probable_trajectory", "a filter's means are no trajectory")
        return self._trajectories(smoothed.means[..., None, :], self.filtered.space.horizon)

    def _trajectories(self, states: Tensor, length: int) -> Trajectories:
        """Puts states `[T + 1, *batch, num, n]` and the record together: `[batch * num, ...]`."""
        record = [in_time(self._recording.actions), in_time(self._recording.observations)]
        batch = states.shape[1:-1]
        parts = [states, *(x[..., None, :].expand(len(x), *batch, x.shape[-1]) for x in record)]
        flat = [part.reshape(len(part), -1, part.shape[-1]).movedim(0, 1) for part in parts]
        return Trajectories(flat[0][:, : length + 1], flat[1][:, :length], observations=flat[2][:, : length + 1])

    @grad_cached_property
    def _recording(self) -> Recording:
        return self.graph.evidence.recording

    def _smoothed(self, name: str, reason: str) -> Moments:
        if self.smoothed is None:
            self._unavailable(name, f": {reason}; ask KalmanSmoother")
        return self.smoothed

    def _unavailable(self, name: str, reason: str = "") -> NoReturn:
        super()._unavailable(
            name, reason or ": it says where the states were, and rewards are no part of that question"
        )


def _distribution(moments: Moments) -> DegenerateNormal:
    return DegenerateNormal(moments.means, moments.covariances)
