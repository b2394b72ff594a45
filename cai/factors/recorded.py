"""What was recorded of a world, in the slots of a graph where the world itself is out of reach."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories


@serializable
class RecordedDynamics:
    """Dynamics, and where it stands there too initial and reward factor, known by recorded trajectories alone.

        graph.replace(dynamics=RecordedDynamics(trajectories))                              # rewards by the graph's own
        graph.replace(dynamics=recorded, reward=recorded)                                   # recorded rewards
        TrajectoryGraph(recorded, recorded, recorded, discount=0.99, temperature=0.1)       # nothing else is known

    Methods that learn from batches of data take it, `SoftQLearning` first; what has to act, or needs tables, refuses
    it. Where a graph does not say its spaces they are as small as the data allow: whole numbers up to the greatest
    seen, or vectors without bounds.

    Args:
        trajectories: What was recorded.

    Raises:
        ValueError: Not trajectories, or none with an action.
    """

    def __init__(self, trajectories: Trajectories) -> None:
        if not isinstance(trajectories, Trajectories):
            raise ValueError(f"RecordedDynamics: expected cai.Trajectories, got {type(trajectories).__name__}")
        if not trajectories.num_steps:
            raise ValueError("RecordedDynamics: the trajectories have no actions")
        self.trajectories = trajectories

    @property
    def num_steps(self) -> None:
        """None: it is the same at every step."""
        return None

    @property
    def state_space(self) -> gymnasium.Space:
        """The least space of the states recorded."""
        return _space_of(self.trajectories.states, self.trajectories.state_mask)

    @property
    def action_space(self) -> gymnasium.Space:
        """The least space of the actions recorded."""
        return _space_of(self.trajectories.actions, self.trajectories.mask)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Raises ValueError: records have no distribution to show."""
        raise ValueError(
            "RecordedDynamics remembers what was recorded, and can neither be run nor tabulated; evaluate a policy in "
            "a graph whose dynamics can"
        )

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"trajectories": self.trajectories}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> RecordedDynamics:
        """Makes the factor of what a file gave."""
        return cls(parts["trajectories"])


def _space_of(values: Tensor, mask: Tensor) -> gymnasium.Space:
    seen = values[mask]
    if seen.is_floating_point():
        kind = np.float64 if seen.dtype == torch.float64 else np.float32
        return gymnasium.spaces.Box(-np.inf, np.inf, tuple(seen.shape[1:]), kind)
    least, greatest = seen.amin(0), seen.amax(0)
    if (least < 0).any():
        raise ValueError(f"RecordedDynamics: discrete states and actions count from 0, got {int(least.min())}")
    if seen.dim() == 1:
        return gymnasium.spaces.Discrete(int(greatest) + 1)
    return gymnasium.spaces.MultiDiscrete((greatest + 1).cpu().numpy())
