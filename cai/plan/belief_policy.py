"""Acting on observations: the Kalman filter says where the state is, a policy of states what to do there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from cai.errors import IncompatibleMethod
from cai.factors.linear_parts import times
from cai.graph import TrajectoryGraph
from cai.graph.state_spaces import linear_state_space, need_linear_state_space
from cai.inference.gaussian import GaussianPosterior
from cai.ops.gaussian.marginals import Moments
from cai.ops.gaussian.state_space import predict, take_in
from cai.plan.choices import sampled_action


@dataclass(frozen=True, eq=False)
class BeliefPolicy:
    """Acts on observations as a policy of states would in the mean of what the observations say of the state.

    At each time it takes in the observation by a step of the Kalman filter, acts by `posterior.policy(mean, t)`, and
    predicts the next state. For a fixed dynamics this is optimal (certainty equivalence): the gains are those of a
    state that is seen, whatever the noise of observations, and the covariance of the filter only adds to the cost (the
    separation principle). It is not where luck is counted in, as under `SumProduct`, or shunned, by
    `RiskSensitiveControl`: there the best action is taken in another state than the filter's mean, one shifted towards
    what exp(eta V) favours; posteriors of such readings are refused.

    `bind` gives a policy with a memory of its belief; time 0 clears it. The object itself has none: called directly, it
    acts on the first observation.

    Attributes:
        posterior: The answer of `SoftValueIteration` on a linear-Gaussian graph with an `observation` factor.
        choose: Gives the action `[*batch, m]` for the policy at the mean: `sampled_action`, `mean_action`, or a
            function of your own.

    Raises:
        IncompatibleMethod: Not a posterior of a linear-Gaussian graph with linear-Gaussian observations, or one that is
            not of the dynamics as it is.

    Source: Wonham (1968) for the separation principle; Whittle (1981) for where risk breaks it.
    """

    posterior: GaussianPosterior
    _: KW_ONLY
    choose: Callable[[Distribution], Tensor] = sampled_action

    def __post_init__(self) -> None:
        posterior = self.posterior
        if not isinstance(posterior, GaussianPosterior):
            raise IncompatibleMethod(
                "BeliefPolicy needs the posterior of SoftValueIteration on a linear-Gaussian graph, got "
                f"{type(posterior).__name__}"
            )
        need_linear_state_space(posterior.graph, "BeliefPolicy")
        if posterior.reading.tilts:
            raise IncompatibleMethod(
                f"BeliefPolicy: under {type(posterior.method).__name__}, which weighs chance by exp(eta V), certainty "
                "equivalence does not hold: the best action on a belief is not that of the filter's mean; take "
                "SoftValueIteration"
            )
        if posterior.problem.batch_shape.numel() > 1:
            raise IncompatibleMethod(
                f"BeliefPolicy: the posterior answers a batch of graphs {list(posterior.problem.batch_shape)}; filter "
                "them one by one"
            )

    def bind(self, world: Any) -> BeliefTracker:
        """Gives a policy with a memory, for a graph or an environment.

        Raises:
            ValueError: What the world shows is not of the size of the model's observations.
        """
        return BeliefTracker(self, world)

    def __call__(self, observation: Any, t: int = 0) -> Tensor:
        """Acts on the first observations `[*batch, k]`: actions `[*batch, m]`.

        Raises:
            ValueError: A later time, which needs what was observed before: `bind` gives a policy that remembers.
        """
        if t != 0:
            raise ValueError(
                f"BeliefPolicy: asked for an action at time {t} without the observations before; use bind()"
            )
        return BeliefTracker(self)(observation, 0)


class BeliefTracker:
    """A `BeliefPolicy` at work in a world: it remembers its belief. Made by `BeliefPolicy.bind`.

    Args:
        policy: What to do.
        world: The graph or environment to act in; None for any.

    Raises:
        ValueError: What the world shows is not of the size of the model's observations.
    """

    def __init__(self, policy: BeliefPolicy, world: Any = None) -> None:
        self._settings = policy  # not `policy`: what has one is taken for a posterior
        self._graph = policy.posterior.graph
        self._space = linear_state_space(self._graph)
        self._inputs = self._graph.dynamics.linear_parts().b.to(self._space.transition)
        self._time: int | None = None
        self._belief = self._space.initial
        _check_sizes(self._graph, world)

    @property
    def belief(self) -> Moments:
        """What is known of the next state before it is observed: moments `[*batch, ...]`."""
        return self._belief

    def __call__(self, observation: Any, t: int = 0) -> Tensor:
        """Takes in the observations `[*batch, k]` of time t and gives actions `[*batch, m]`.

        Raises:
            ValueError: Times out of order, or observations of another size.
        """
        t, seen = int(t), self._observation(observation)
        if t == 0:
            self._belief = self._space.initial
        elif t != self._time:
            expected = "0" if self._time is None else f"{self._time} or 0"
            raise ValueError(
                f"BeliefPolicy: observations must come one after the other; expected t = {expected}, got {t}"
            )
        belief = take_in(self._space, self._belief, seen, t)
        action = torch.as_tensor(self._settings.choose(self._settings.posterior.policy(belief.means, t)))
        inputs = self._inputs[t if len(self._inputs) > 1 else 0]
        self._belief, self._time = predict(self._space, belief, times(inputs, action.to(inputs)), t), t + 1
        return action

    def _observation(self, observation: Any) -> Tensor:
        seen = observation if isinstance(observation, Tensor) else torch.as_tensor(np.asarray(observation))
        size = self._graph.observation.observation_size
        if not seen.dim() or seen.shape[-1] != size:
            raise ValueError(f"BeliefPolicy: expected observations [*batch, {size}], got {list(seen.shape)}")
        return seen.to(self._space.transition)


def _check_sizes(graph: TrajectoryGraph, world: Any) -> None:
    own = (graph.observation.observation_size, graph.dynamics.action_size)
    shown = getattr(world, "observation", None)
    size = getattr(shown, "observation_size", None) if shown is not None else _size_of(world, "observation_space")
    for what, expected, found in zip(
        ("observations", "actions"), own, (size, _size_of(world, "action_space")), strict=True
    ):
        if found is not None and found != expected:
            raise ValueError(f"BeliefPolicy: the model's {what} have {expected} coordinates, the world's {found}")


def _size_of(world: Any, space: str) -> int | None:
    shape = getattr(getattr(world, space, None), "shape", None)
    return shape[0] if shape is not None and len(shape) == 1 else None
