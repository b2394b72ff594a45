"""Policy gradients: the maximum-entropy policy by climbing its own objective, from samples of what it does.

    grad J = E sum_t grad log pi(a_t|s_t) A_t,     J = E sum_t gamma^t [r_t - alpha log(pi/mu)(a_t|s_t)]

Posterior: that of `SoftValueIteration`, dynamics fixed; structured variational inference with the policy as the
variational family. Everything is an estimate; what is found is a local optimum within what the network can express.

Convention: rows count alike, not by gamma^t, as everybody does it. With gamma < 1 that is the gradient of no objective,
but where it vanishes a table is optimal all the same; `MonteCarlo` alone has the discount.

Source: Williams (1992); Sutton, McAllester, Singh and Mansour (2000); Levine (2018), section 4.1; Schulman, Chen and
Abbeel (2017) for the temperature; each option names its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.heads import AbstractHead, DeterministicHead, GaussianHead, StateGaussianHead, default_head
from cai.factors.networks import MLPBody, OrthogonalInitialisation
from cai.factors.neural_policies import Body, Standardisation
from cai.factors.protocols import TabulatedPrior
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.policy_gradients.advantages import GAE, AbstractAdvantage, RewardToGo
from cai.methods.policy_gradients.clipped_surrogate import ClippedSurrogate
from cai.methods.policy_gradients.control_variates import FittedAdvantage
from cai.methods.policy_gradients.critics import AbstractCritic, JointCritic, SeparateCritic
from cai.methods.policy_gradients.learner import PolicyGradientLearner
from cai.methods.policy_gradients.natural_gradient import NaturalGradient, TrustRegion
from cai.methods.policy_gradients.regularisers import AbstractRegulariser, InReward
from cai.methods.policy_gradients.updates import AbstractUpdate, GradientStep
from cai.methods.sampling.annealing import Annealed, at_share
from cai.methods.sampling.on_policy import AbstractOnPolicyMethod

#: Two layers of 64, and a last one so small that the first policy is nearly the same in all states.
_POLICY_BODY = MLPBody((64, 64), "tanh", OrthogonalInitialisation(output_gain=0.01))


@serializable
@dataclass(frozen=True)
class PolicyGradient(AbstractOnPolicyMethod):
    """The soft-optimal policy by a gradient on itself; as it stands, PPO.

    Acts for `steps_per_rollout` steps of each copy, moves policy and critic, and forgets what it saw. An environment
    step costs a pass through the policy, an update a pass and back over its rows for policy and critic. Where
    transitions are dear `SoftActorCritic` and `SoftQLearning` learn more from each; with tables `SoftValueIteration` is
    exact.

    `PolicyGradient.reinforce()`, `.a2c()`, `.ppo()`, `.natural()` and `.trpo()` give the settings of the literature.

    Attributes:
        steps_per_rollout: Steps of each copy between two updates. Without a critic episodes begun are run to their
            ends, since nothing then stands for what is cut off.
        advantage: `MonteCarlo()`, `RewardToGo()` or `GAE(decay)`.
        update: `GradientStep()`, `ClippedSurrogate()`, `KLPenalty()`, `NaturalGradient()`, `TrustRegion()` or
            `ImportanceWeighted()`.
        regulariser: `InReward()`, the objective of inference, or `Bonus()`.
        critic: `JointCritic()`, `SharedCritic()`, `SeparateCritic()`, or None for no baseline.
        control_variate: `FittedAdvantage()`: a baseline that depends on the action, or None.
        head: What distribution over actions; None takes categorical ones, a squashed normal in a bounded box, and a
            normal with a standard deviation that is the same in all states in an unbounded one.
        body: The policy's network.
        learning_rate: Of Adam, for policies that move by gradient steps.
        max_gradient_norm: A longer gradient is shortened to this, or None.
        standardised_advantages: Whether advantages of a rollout are brought to mean zero and variance one. The
            regulariser is scaled along, so that temperatures keep their meaning.
        standardisation: Of the states' features, by running moments, or None.
        scaled_rewards: Whether rewards, and the temperature with them, are divided by the running standard deviation of
            returns inside the learner. The objective and v stay in reward units.
    """

    num_envs: int = 8
    steps_per_rollout: int = 256
    advantage: AbstractAdvantage = GAE()
    update: AbstractUpdate = ClippedSurrogate()
    regulariser: AbstractRegulariser = InReward()
    critic: AbstractCritic | None = JointCritic()
    control_variate: FittedAdvantage | None = None
    head: AbstractHead | None = None
    body: Body = _POLICY_BODY
    learning_rate: float | Annealed = 3e-4
    max_gradient_norm: float | None = 0.5
    standardised_advantages: bool = True
    standardisation: Standardisation | None = None
    scaled_rewards: bool = False

    # The literature's settings.

    @classmethod
    def reinforce(cls, **options: Any) -> PolicyGradient:
        """REINFORCE: rewards to go of whole episodes, no critic, one step a rollout."""
        settings: dict[str, Any] = {"num_envs": 1, "steps_per_rollout": 500, "learning_rate": 1e-2}
        return cls(**settings | {"advantage": RewardToGo(), "update": GradientStep(), "critic": None} | options)

    @classmethod
    def a2c(cls, **options: Any) -> PolicyGradient:
        """Advantage actor-critic: short rollouts, a critic, one step a rollout."""
        settings: dict[str, Any] = {"steps_per_rollout": 16, "learning_rate": 3e-3, "update": GradientStep()}
        return cls(**settings | options)

    @classmethod
    def ppo(cls, **options: Any) -> PolicyGradient:
        """Proximal policy optimisation: the clipped surrogate, several epochs a rollout."""
        settings: dict[str, Any] = {"update": ClippedSurrogate()}
        return cls(**settings | options)

    @classmethod
    def natural(cls, **options: Any) -> PolicyGradient:
        """The natural gradient, with a critic of its own."""
        settings: dict[str, Any] = {"update": NaturalGradient(), "critic": SeparateCritic()}
        return cls(**settings | options)

    @classmethod
    def trpo(cls, **options: Any) -> PolicyGradient:
        """Trust region policy optimisation: the natural gradient with a line search, with a critic of its own."""
        settings: dict[str, Any] = {"update": TrustRegion(), "critic": SeparateCritic()}
        return cls(**settings | options)

    # What is refused, and what learns.

    def check(self, graph: TrajectoryGraph) -> None:
        """Raises ValueError for options that do not go together, `IncompatibleMethod` for a head of other actions."""
        super().check(graph)
        self._check_options()
        actions = ActionEncoding(graph.action_space)
        head = self.head_for(actions)
        try:
            head.num_outputs(actions)
        except ValueError as error:
            raise IncompatibleMethod(f"PolicyGradient: {error}") from None
        if isinstance(head, DeterministicHead):
            raise IncompatibleMethod("PolicyGradient needs a policy with a density, which DeterministicHead has not")
        if isinstance(head, GaussianHead | StateGaussianHead) and actions.low is not None:
            raise IncompatibleMethod(
                f"PolicyGradient: a normal reaches beyond the box {actions.space}, and what is clipped has another "
                "density than what was drawn; take SquashedGaussianHead(), which head=None does"
            )

        self._check_prior(graph, actions)

    def _check_prior(self, graph: TrajectoryGraph, actions: ActionEncoding) -> None:
        prior = graph.action_prior
        if not isinstance(prior, TabulatedPrior) or not actions.row_shape:
            return
        num_states = StateEncoding(graph.state_space).num_states
        if num_states is not None and (prior.prior_table(num_states, actions.num_actions) == 0).any():
            raise IncompatibleMethod(
                f"PolicyGradient: the action prior forbids some of {actions.space}, and a policy whose choices are "
                "independent of each other cannot leave out just these; number the joint actions in a Discrete space"
            )

    def _check_options(self) -> None:
        if self.critic is None and self.advantage.needs_critic:
            raise ValueError(
                f"PolicyGradient: {type(self.advantage).__name__} needs a critic; take JointCritic(), or RewardToGo()"
            )
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0.0:
            raise ValueError(f"PolicyGradient: max_gradient_norm must be positive, got {self.max_gradient_norm!r}")
        for end in (at_share(self.learning_rate, 0.0), at_share(self.learning_rate, 1.0)):
            if not 0.0 <= end < math.inf:
                raise ValueError(f"PolicyGradient: learning_rate must be at least 0, got {self.learning_rate!r}")
        self.update.check(self)

    def head_for(self, actions: ActionEncoding) -> AbstractHead:
        """Gives the head for a space of actions."""
        if self.head is not None:
            return self.head
        return GaussianHead() if not actions.is_discrete and actions.low is None else default_head(actions)

    def learner(self, graph: TrajectoryGraph) -> PolicyGradientLearner:
        """Makes what learns, untrained."""
        return PolicyGradientLearner(graph, self)

    @property
    def estimates(self) -> tuple[str, ...]:
        """What of the posterior is estimated."""
        return ("policy", "v", "log_evidence") if self.critic is not None else ("policy", "log_evidence")
