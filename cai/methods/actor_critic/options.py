"""Options of `SoftActorCritic` as objects: how the temperature is found, and what there is in the place of chance."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from cai.data.encodings import ActionEncoding
from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.methods.sampling.annealing import Annealed
from cai.methods.sampling.priors import AbstractActionPrior, ConstantPrior

#: The share of the greatest entropy that is the target on finite actions.
_SHARE = 0.5


class AbstractTuning(ABC):
    """Finds the temperature at which the policy strays from the action prior by so much: dual ascent.

        log alpha <- log alpha - rate (budget - E log(pi / mu))

    Attributes:
        initial: The first temperature, reward units; None takes the graph's.
        learning_rate: Of log alpha; None takes that of the critics.
    """

    initial: float | None
    learning_rate: float | Annealed | None

    @abstractmethod
    def budget(self, actions: ActionEncoding, prior: AbstractActionPrior) -> float:
        """Gives what E log(pi / mu) is brought to, nats; raises `IncompatibleMethod` where that has no meaning."""


@serializable
@dataclass(frozen=True)
class TargetEntropy(AbstractTuning):
    """Tunes the temperature until the policy has a given entropy.

    On boxes the entropy is the differential one in units of [-1, 1]^m, whatever the environment's own units are: it is
    at most m log 2, and negative where actions are chosen to within less than a unit. On finite actions it is at most
    log A.

    Attributes:
        target: Nats; None is -m on boxes, as is usual, and half of log A on finite actions (Christodoulou (2019) has
            0.98 log A, with which a policy hardly prefers anything).
        initial: The first temperature, reward units; None takes the graph's.
        learning_rate: Of log alpha; None takes that of the critics.

    Source: Haarnoja et al. (2018).
    """

    target: float | None = None
    initial: float | None = None
    learning_rate: float | Annealed | None = None

    def __post_init__(self) -> None:
        _check_tuning(self)

    def budget(self, actions: ActionEncoding, prior: AbstractActionPrior) -> float:
        """Gives what E log(pi / mu) is brought to, nats."""
        if not isinstance(prior, ConstantPrior):
            raise IncompatibleMethod(
                "TargetEntropy: the graph has an action prior, from which a policy is kept by a KL divergence and not "
                "by an entropy; use cai.methods.TargetDivergence(...)"
            )
        # on an unbounded box the unit is the environment's own
        greatest = 0.0 if actions.log_volume is None else actions.log_volume
        unit = 0.0 if actions.is_discrete or actions.log_volume is None else greatest - actions.size * math.log(2.0)
        target = self.target
        if target is None:
            target = _SHARE * greatest if actions.is_discrete else -float(actions.size)
        return -(target + unit) - prior.log_density


@serializable
@dataclass(frozen=True)
class TargetDivergence(AbstractTuning):
    """Tunes the temperature until the policy is at a given KL divergence from the action prior.

    Attributes:
        target: E KL(pi || mu), nats, positive.
        initial: The first temperature, reward units; None takes the graph's.
        learning_rate: Of log alpha; None takes that of the critics.

    Source: Abdolmaleki et al. (2018), for the dual of a constraint on the divergence.
    """

    target: float
    initial: float | None = None
    learning_rate: float | Annealed | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.target < math.inf:
            raise ValueError(f"TargetDivergence: target must be positive, got {self.target!r}")
        _check_tuning(self)

    def budget(self, actions: ActionEncoding, prior: AbstractActionPrior) -> float:
        """Gives what E log(pi / mu) is brought to, nats."""
        return self.target


@serializable
@dataclass(frozen=True)
class DeterministicLimit:
    """What there is at temperature zero in the place of a policy's own chance: noise, and care against it.

    Noise is normal, of standard deviations in units of half the box, or of the environment where it is unbounded.
    `target_noise=0` and `policy_delay=1`, with `num_critics=1`, are DDPG; the defaults, with two critics, TD3.

    Attributes:
        exploration_noise: Of what is done.
        target_noise: Of the actions in targets, which smooths the critic.
        noise_clip: The most of it.
        policy_delay: Updates of the critics for each of the actor and of the targets.

    Source: Lillicrap et al. (2016); Fujimoto et al. (2018).
    """

    exploration_noise: float = 0.1
    target_noise: float = 0.2
    noise_clip: float = 0.5
    policy_delay: int = 2

    def __post_init__(self) -> None:
        for name in ("exploration_noise", "target_noise", "noise_clip"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"DeterministicLimit: {name} must be at least 0, got {getattr(self, name)!r}")
        if isinstance(self.policy_delay, bool) or not isinstance(self.policy_delay, int) or self.policy_delay < 1:
            raise ValueError(
                f"DeterministicLimit: policy_delay must be a whole number of at least 1, got {self.policy_delay!r}"
            )


def _check_tuning(tuning: AbstractTuning) -> None:
    if tuning.initial is not None and not 0.0 < tuning.initial < math.inf:
        raise ValueError(f"{type(tuning).__name__}: initial must be positive, got {tuning.initial!r}")
