"""Cross-entropy search over the parameters of a policy: no gradients, no values, no credit assignment.

    theta_i ~ N(mean, diag std^2),   J_i = E sum_t gamma^t [r_t - alpha log(pi / mu)]     by episodes of each theta_i
    mean, std^2  <-  mean of the elites, variance of the elites + noise^2                 the elites are the best by J

Posterior: a policy whose J is a lower bound, as that of any policy; nothing says how far below the best it is. It is
the baseline that anything cleverer must beat, and on problems that a linear policy solves it is hard to beat. An
elite likelihood: of all theta, those with J above a quantile are the evidence.

Source: Szita and Lorincz (2006), for the noise too; de Boer, Kroese, Mannor and Rubinstein (2005).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod, NonFinite
from cai.factors.heads import AbstractHead
from cai.factors.networks import MLPBody
from cai.factors.protocols import Stepped
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.policy_search.episodes import Tournament
from cai.methods.policy_search.learner import PolicySearchLearner
from cai.methods.sampling.annealing import Annealed, at_share
from cai.methods.sampling.method import AbstractSamplingMethod, need_whole_numbers
from cai.methods.sampling.run import Run
from cai.simulate.worlds import AbstractWorld, world_of

#: A discounted future of less weight than this is not waited for.
_NEGLIGIBLE = 1e-3


@serializable
@dataclass(frozen=True)
class CrossEntropyPolicySearch(AbstractSamplingMethod):
    """A policy by gradient-free search over its parameters; at temperature 0 a deterministic one.

    Gives a policy and its bound, and no q or v. Needs episodes that end: by a horizon, a time limit, or a discount,
    under which they are cut where gamma^t is below 0.001. As many policies as there are copies of the world run at
    once, by batched products; at the end of a generation copies wait for the longest episode, so that many copies are
    quick and few are frugal. The number of episodes needed grows at least in proportion to the number of parameters:
    `PolicyGradient` is the better choice for networks, `SoftActorCritic` where steps of the world are dear.

    Attributes:
        num_envs: Copies of the world; the population or less.
        population: Policies in a generation.
        elite_share: The share of them that counts, in (0, 1).
        episodes: Episodes of each policy in a generation.
        body: The network's form; `MLPBody(())`, without hidden layers, is linear in the features of the state.
        head: The distribution's form; None is the usual one of the action space.
        initial_std: Standard deviation of every parameter at first.
        noise: Standard deviation added to each parameter in each generation, so that the search does not settle early;
            the last value is the floor.
    """

    num_envs: int = 10
    population: int = 40
    elite_share: float = 0.2
    episodes: int = 1
    body: MLPBody = MLPBody(())
    head: AbstractHead | None = None
    initial_std: float = 1.0
    noise: float | Annealed = Annealed(0.3, 0.02, 0.5)

    def check(self, graph: TrajectoryGraph) -> None:
        """Raises ValueError for bad hyper-parameters, `IncompatibleMethod` where episodes may not end."""
        need_whole_numbers(self, "episodes")
        need_whole_numbers(self, "population", least=2)
        if not 0.0 < self.elite_share < 1.0:
            raise ValueError(f"CrossEntropyPolicySearch: elite_share must be in (0, 1), got {self.elite_share!r}")
        if not 0.0 < self.initial_std < math.inf:
            raise ValueError(f"CrossEntropyPolicySearch: initial_std must be positive, got {self.initial_std!r}")
        if not isinstance(self.body, MLPBody):
            raise ValueError(
                f"CrossEntropyPolicySearch: body must be a cai.factors.MLPBody, many of which run at once, got "
                f"{self.body!r}"
            )
        if graph.discount == 1.0 and graph.horizon is None:
            raise IncompatibleMethod(
                "CrossEntropyPolicySearch waits for the end of episodes, which some policies may never reach; give the "
                "graph a horizon, or a discount below 1"
            )

    def learner(self, graph: TrajectoryGraph) -> PolicySearchLearner:
        """Makes what learns, untrained."""
        return PolicySearchLearner(graph, body=self.body, head=self.head, initial_std=self.initial_std)

    def world(self, graph: TrajectoryGraph) -> AbstractWorld:
        """Makes what is acted in, with episodes that end."""
        limited = graph.replace(horizon=_length_of_episodes(graph))
        return world_of(limited, self.num_envs, vectorization_mode=self.vectorization_mode)

    def advance(self, run: Run) -> None:
        """Runs a generation, and moves to its elites."""
        learner, world = run.learner, run.world
        assert isinstance(learner, PolicySearchLearner) and world is not None
        vectors = learner.draw(self.population)
        try:
            scores = Tournament(learner, world, vectors, self.episodes).play((run.random.seed + run.num_steps) % 2**31)
        except NonFinite as error:
            raise NonFinite(f"CrossEntropyPolicySearch: in generation {run.num_updates + 1}, {error}") from None
        num_elites = max(1, round(self.elite_share * self.population))
        best = scores.objectives.topk(num_elites)
        learner.move_to(vectors[best.indices], at_share(self.noise, learner.share))
        run.num_steps += scores.num_steps
        run.num_updates += 1
        run.count_episodes()
        learner.metrics.add("objective", scores.objectives.mean())
        learner.metrics.add("elite_objective", best.values.mean())
        learner.metrics.add("parameter_std", learner.std.mean())

    @property
    def estimates(self) -> tuple[str, ...]:
        """What of the posterior is estimated."""
        return ("policy", "log_evidence")


def _length_of_episodes(graph: TrajectoryGraph) -> int | None:
    """The steps after which an episode is cut; None where the environment sees to it."""
    if graph.horizon is not None:
        return graph.horizon
    if isinstance(graph.dynamics, Stepped):
        spec = graph.dynamics.env.spec
        if spec is not None and spec.max_episode_steps is not None:
            return None
    return max(1, math.ceil(math.log(_NEGLIGIBLE) / math.log(graph.discount))) if graph.discount else 1
