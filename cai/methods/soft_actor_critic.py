"""Soft actor-critic: the posterior of fixed dynamics by critics, and an actor that is projected onto them.

    y = r + gamma V(s'),      V(s) = E_pi [min_i Q_i(s, a) - alpha log(pi/mu)(a|s)]
    Q_i <- argmin E (Q_i(s, a) - y)^2,      pi <- argmin KL(pi || mu exp(Q / alpha) / Z)

Posterior: that of `SoftValueIteration`, dynamics fixed, restricted to the actor's family; everything is an estimate.
Where the family holds the soft-optimal policy, on finite actions always, the fixed point is that policy; a squashed
normal has one mode, and is the reverse-KL projection of what has several.

Sources: Haarnoja, Zhou, Abbeel and Levine (2018); Haarnoja et al. (2018) for the temperature; Christodoulou (2019) for
finite actions; Lillicrap et al. (2016) and Fujimoto et al. (2018) for temperature zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.networks import MLPBody
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.actor_critic.boxes import BoxActorCritic
from cai.methods.actor_critic.deterministic import DeterministicActorCritic
from cai.methods.actor_critic.discrete import DiscreteActorCritic
from cai.methods.actor_critic.learner import AbstractActorCritic
from cai.methods.actor_critic.options import AbstractTuning, DeterministicLimit
from cai.methods.sampling.annealing import Annealed
from cai.methods.sampling.method import need_whole_numbers
from cai.methods.sampling.off_policy import AbstractOffPolicyMethod
from cai.methods.sampling.priors import prior_of
from cai.methods.sampling.targets import AbstractTarget, PolyakTarget, need_target


@serializable
@dataclass(frozen=True)
class SoftActorCritic(AbstractOffPolicyMethod):
    """The soft-optimal policy of a world that can only be stepped, on boxes or finitely many actions, from samples.

    The objective is the graph's: reward less temperature times log(pi/mu), mu the action prior. With none that is the
    divergence from the uniform distribution; `cai.factors.FlatPrior()` is the plain entropy bonus of the literature;
    a `NeuralPolicy` or any callable that gives a distribution keeps the policy near it. To scale rewards by c is to
    divide the temperature by c. At temperature zero the actor is deterministic (DDPG, TD3).

    An update takes two passes of the actor and three of the critics forward, and back through one and two of them: on
    one core of a CPU, 256 x 256 units and a batch of 256, some 7 ms, however long episodes are. Memory is that of the
    transitions. `SoftQLearning` needs no actor on finite actions; `PolicyGradient` is the better choice where steps of
    the world are cheaper than updates.

    Attributes:
        temperature: How the temperature is tuned, `TargetEntropy()` or `TargetDivergence(...)`; None keeps the graph's.
        limit: Noise and delays at temperature zero; of no effect elsewhere.
        num_critics: Critics of whose values the least counts.
        learning_rate: Of the critics, and of what has none of its own.
        actor_learning_rate: Of the actor.
        target: How the slow copies of the critics follow: `PolyakTarget(rate)`, rate the weight of the new parameters,
            or `PeriodicTarget(interval)`.
        max_gradient_norm: To which gradients are scaled down; None leaves them.
        body: Makes the actor's network: `MLPBody`, or any callable `(num_inputs, num_outputs) -> nn.Module`.
        critic_body: Makes a critic's; None takes `body`.
    """

    learning_starts: int = 100
    temperature: AbstractTuning | None = None
    limit: DeterministicLimit = DeterministicLimit()
    num_critics: int = 2
    learning_rate: float | Annealed = 3e-4
    actor_learning_rate: float | Annealed | None = None
    target: AbstractTarget = PolyakTarget(0.005)
    max_gradient_norm: float | None = None
    body: Any = MLPBody()
    critic_body: Any = None

    @property
    def critics_of(self) -> Any:
        """What makes a critic's network."""
        return self.body if self.critic_body is None else self.critic_body

    def check(self, graph: TrajectoryGraph) -> None:
        """Raises ValueError for bad hyper-parameters, `IncompatibleMethod` for what the graph cannot give."""
        super().check(graph)
        self._check_numbers()
        try:
            states, actions = StateEncoding(graph.state_space), ActionEncoding(graph.action_space)
        except ValueError as error:
            raise IncompatibleMethod(f"SoftActorCritic: {error}") from None
        prior = prior_of(graph, states, actions)
        if self.temperature is not None:
            self.temperature.budget(actions, prior)
            if self.temperature.initial is None and not float(graph.temperature) > 0.0:
                raise IncompatibleMethod(
                    "SoftActorCritic: a temperature is tuned from a positive one, the graph's is 0; give initial="
                )
        elif actions.is_discrete and float(graph.temperature) == 0.0:
            raise IncompatibleMethod(
                "SoftActorCritic: at temperature 0 an actor on finite actions never tries another than its best; "
                "SoftQLearning is double DQN there"
            )

    def _check_numbers(self) -> None:
        need_whole_numbers(self, "num_critics")
        if not isinstance(self.temperature, AbstractTuning | None):
            raise ValueError(
                "SoftActorCritic: temperature says how it is tuned, such as cai.methods.TargetEntropy(), got "
                f"{self.temperature!r}; a fixed temperature is the graph's: graph.replace(temperature=...)"
            )
        if not isinstance(self.limit, DeterministicLimit):
            raise ValueError(f"SoftActorCritic: limit must be a cai.methods.DeterministicLimit, got {self.limit!r}")
        tuning_rate = None if self.temperature is None else self.temperature.learning_rate
        for rate in (self.learning_rate, self.actor_learning_rate, tuning_rate):
            ends = (rate.start, rate.end) if isinstance(rate, Annealed) else (0.0 if rate is None else rate,)
            if not all(0.0 <= end < math.inf for end in ends):
                raise ValueError(f"SoftActorCritic: learning rates must be at least 0, got {rate!r}")
        need_target(self, self.target)
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0.0:
            raise ValueError(f"SoftActorCritic: max_gradient_norm must be positive, got {self.max_gradient_norm!r}")
        for name in ("body", "critic_body"):
            if not callable(getattr(self, name)) and not (name == "critic_body" and self.critic_body is None):
                raise ValueError(
                    f"SoftActorCritic: {name} must make a network, (num_inputs, num_outputs) -> nn.Module, got "
                    f"{getattr(self, name)!r}"
                )

    def learner(self, graph: TrajectoryGraph) -> AbstractActorCritic:
        """Makes actor and critics, untrained."""
        if ActionEncoding(graph.action_space).is_discrete:
            return DiscreteActorCritic(graph, self)
        if self.temperature is None and float(graph.temperature) == 0.0:
            return DeterministicActorCritic(graph, self)
        return BoxActorCritic(graph, self)
