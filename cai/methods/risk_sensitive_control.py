"""Risk-sensitive control: one number between the worst case, the dynamics as it is, and the trajectory posterior.

Posterior: trajectories of the soft-optimal policy in a dynamics that is tilted by exp(eta V), for luck or against it.

    Q_t = log E exp(eta (r + W_{t+1})) / eta,      W = log(gamma exp(eta V) + 1 - gamma) / eta
    V_t = alpha log sum_a mu exp(Q_t / alpha),     pi_t = mu exp((Q_t - V_t) / alpha)
    q(s'|s,a) ~ p(s'|s,a) exp(eta (r + W_{t+1}(s')))

eta = 1 / alpha is `SumProduct`, eta = 0, the limit from both sides, is `SoftValueIteration`, and eta -> -inf fears all
that can happen. For eta < 0 it is the best policy against a dynamics that may change, where a change costs its
divergence from p:

    log E exp(eta x) / eta = min_q E_q x + KL(q || p) / |eta|      (eta > 0: max_q E_q x - KL(q || p) / eta)

A discount is a chance 1 - gamma a step of an end worth zero, and that chance is tilted as any other: where V > 0 the
risk-averse fear the end, where V < 0 they fear its absence.

Exactness: exact on tables. `log_evidence` = V_start / alpha is a lower bound of log p(O) for eta <= 1 / alpha, since V
rises with eta; beyond, it is `Unavailable`. Values, marginals and samples describe the tilted dynamics: what the policy
achieves in the world as it is, `PolicyEvaluation(posterior)` says.

Existence: without a horizon there may be no finite answer, luck (eta > 0) or fear (eta < 0) growing faster than the
discount shrinks: there is one iff eta g + log gamma < 0, g the risk-sensitive gain of the world without its ends; see
`cai.ops.infinite.growth`. For eta < 0 this is the breakdown of risk-averse control.

Cost: as `SumProduct`. Without a horizon Newton's method, full steps for eta > 0, where the backup is convex, and damped
ones for eta < 0, where it is neither convex nor concave; errors are certified by an enclosure of the fixed point
(`cai.ops.infinite.enclosure`).

Source: Howard and Matheson (1972), at temperature 0; Marcus et al. (1997), a survey; Noorani and Baras (2022), as
inference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.methods.exact_method import AbstractExactMethod
from cai.methods.solvers import AbstractSolver, Anderson, Newton, NewtonKrylov, ValueIteration, newton_for
from cai.ops.readings import FixedDynamics, Reading, RiskSensitive
from cai.ops.tables import Tables


@serializable
@dataclass(frozen=True)
class RiskSensitiveControl(AbstractExactMethod):
    """Soft-optimal control that is averse to chance, indifferent to it, or fond of it, exactly.

    Needs tables of the dynamics, or linear-Gaussian factors without a discount (LEQG in both directions, refused where
    the expectation of exp(eta V) does not exist); temperature 0 is the entropic risk of hard control. For `eta=0`, the
    best policy on average, `SoftValueIteration` is the shorter name; for the posterior, `eta=1/temperature`,
    `SumProduct`, which also conditions on evidence. Take this one to be careful (`eta < 0`), or to see what lies
    between.

    Attributes:
        eta: Risk parameter, in 1 / reward units: how many nats a unit of reward is worth to the dynamics. Negative is
            risk-averse, positive risk-seeking.
        solver: On tables, how the fixed point of an infinite horizon is reached: `Newton()`, `NewtonKrylov()`,
            `ValueIteration()`, `Anderson()`, or None, which picks one of the first two, and sweeps at temperature 0
            without discount.
        tolerance: Certified error of V to reach on an infinite horizon, relative to max(1, max|V|).
        max_steps: The most steps of the solver; None takes the solver's own limit.
    """

    eta: float
    solver: Newton | NewtonKrylov | ValueIteration | Anderson | None = None
    tolerance: float = 1e-10
    max_steps: int | None = None

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph is of tables without later evidence, or linear-Gaussian.

        Raises:
            ValueError: An eta that is no number, not finite, or so small that it is zero; what is not a solver.
        """
        if not isinstance(self.eta, Real) or isinstance(self.eta, bool):
            raise ValueError(f"RiskSensitiveControl: eta must be a number (1 / reward units), got {self.eta!r}")
        if not isinstance(self.solver, Newton | NewtonKrylov | ValueIteration | Anderson | None):
            raise ValueError(
                "RiskSensitiveControl: solver must be Newton(), NewtonKrylov(), ValueIteration() or Anderson(), got "
                f"{self.solver!r}"
            )
        super().accepts(graph)
        later = sorted(t for t in graph.evidence.states if t > 0)
        if later:
            raise IncompatibleMethod(
                f"RiskSensitiveControl takes no evidence on states at later times, here {later}: no policy makes it "
                "certain; SumProduct conditions on it"
            )

    @property
    def reading(self) -> Reading:
        """The dynamics, tilted; as it is where eta is zero."""
        return RiskSensitive(self.eta) if self.eta else FixedDynamics()

    def solver_for(self, tables: Tables) -> AbstractSolver:
        """The solver given, or Newton's method; at temperature 0 without discount it may never end, sweeps do."""
        solver = self.solver
        if solver is None and tables.discount == 1.0 and tables.is_hard:
            solver = ValueIteration(max_steps=100_000)
        if solver is None:
            solver = newton_for(tables)
        return solver if self.max_steps is None else replace(solver, max_steps=self.max_steps)
