"""What each method refuses, before any work, and what it says would work; warnings; settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import cai
from tests import oracles
from tests.laws.build import graph_of

F = cai.factors
METHODS = [
    cai.SumProduct(),
    cai.MaxProduct(),
    cai.SoftValueIteration(),
    cai.SoftPolicyIteration(),
    cai.RiskSensitiveControl(-0.5),
    cai.PolicyEvaluation(F.TabularPolicy(np.full((4, 2), 0.5))),
]
methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def graph(**options: Any) -> cai.TrajectoryGraph:
    return graph_of(oracles.random_problem(5, **({"num_states": 4, "horizon": 3, "reward": "sa"} | options)))


# -- what the graph lacks ---------------------------------------------------------------------------------------------

LACKING: dict[str, tuple[Callable[[], Any], str]] = {
    "no graph": (lambda: None, "not a NoneType"),
    "no dynamics": (lambda: graph().replace(dynamics=None), r"needs tables of the dynamics .* got none"),
    "callable": (lambda: graph().replace(dynamics=lambda s, a: s), "needs tables of the dynamics .* got function"),
    "tensor": (lambda: graph().replace(dynamics=torch.ones(4, 2, 4)), "needs tables .* got Tensor"),
    "no start": (lambda: graph().replace(initial=None), "needs the graph's initial, which is None"),
    "no reward": (lambda: graph().replace(reward=None), "needs the graph's reward, which is None"),
}


@methods
@pytest.mark.parametrize("make, message", LACKING.values(), ids=LACKING)
def test_graphs_that_lack_something(method: Any, make: Callable[[], Any], message: str) -> None:
    with pytest.raises(cai.IncompatibleMethod, match=f"{type(method).__name__}.*{message}"):
        cai.infer(make(), method)
    with pytest.raises(cai.IncompatibleMethod):
        method.accepts(make())


@methods
def test_reward_still_to_be_fitted(method: Any) -> None:
    with pytest.raises(ValueError, match="weights are not set; fit them, or give weights="):
        cai.infer(graph().replace(reward=F.LinearReward(np.eye(4))), method)


def test_refusals_name_what_would_work() -> None:
    cases = [
        (cai.SumProduct(), {"temperature": 0.0}, "positive temperature.*SoftValueIteration and MaxProduct"),
        (cai.MaxProduct(), {"horizon": None, "discount": 0.9}, "finite horizon.*SumProduct and SoftValueIteration"),
        (cai.MaxProduct(), {"discount": 0.9}, r"discount 1, got 0.9.*graph.replace\(discount=1.0\)"),
    ]
    for method, options, message in cases:
        with pytest.raises(cai.IncompatibleMethod, match=message):
            cai.infer(graph(**options), method)


def test_evidence_that_no_policy_can_make_certain() -> None:
    known = graph().condition(states={2: 1})
    for method in (cai.SoftValueIteration(), cai.SoftPolicyIteration()):
        with pytest.raises(cai.IncompatibleMethod, match=r"at times \[2\] certain; SumProduct conditions on it"):
            cai.infer(known, method)
    with pytest.raises(cai.IncompatibleMethod, match="evidence has nothing to act on; SumProduct has"):
        cai.infer(known, METHODS[-1])


def test_evidence_of_probability_zero() -> None:
    world = graph().replace(initial=F.Delta(0))
    with pytest.raises(ValueError, match="state 1 at time 0 has probability zero"):
        cai.infer(world.condition(states={0: 1}), cai.SumProduct())
    still = world.replace(dynamics=F.TabularDynamics(np.eye(4)[:, None, :].repeat(2, 1)))
    with pytest.raises(cai.IncompatibleMethod, match="evidence has probability zero"):
        cai.infer(still.condition(states={2: 1}), cai.SumProduct())
    prior = F.TabularPolicy(np.tile([1.0, 0.0], (4, 1)))
    with pytest.raises(cai.IncompatibleMethod, match="evidence has probability zero"):
        cai.infer(graph().replace(action_prior=prior).condition(actions={1: 1}), cai.SumProduct())


def test_states_that_never_reach_an_end_are_named() -> None:
    probs = np.eye(3)[[2, 1, 2]][:, None, :]
    world = cai.TrajectoryGraph(
        F.Delta(0), F.TabularDynamics(probs, terminal=[False, False, True]), F.TabularReward([-1.0] * 3)
    )
    for method in (cai.SumProduct(), cai.SoftValueIteration(), cai.SoftPolicyIteration()):
        message = f"{type(method).__name__}: .* state 1 never reaches a terminal state; give a discount below 1"
        with pytest.raises(cai.IncompatibleMethod, match=message):
            cai.infer(world, method)
    with pytest.raises(cai.IncompatibleMethod, match="one closed class of states, and has 2: state 1 and state 2"):
        cai.infer(world.replace(dynamics=F.TabularDynamics(probs)), cai.SoftValueIteration())


def test_risk_has_no_gain_yet() -> None:
    endless = graph().replace(horizon=None)
    assert cai.infer(endless, cai.SoftValueIteration()).gain.shape == ()
    with pytest.raises(cai.IncompatibleMethod, match="without terminal states values grow without bound"):
        cai.infer(endless, cai.RiskSensitiveControl(-0.5))


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("method", [cai.SumProduct, cai.SoftValueIteration, cai.SoftPolicyIteration])
def test_tolerances_that_make_no_sense(method: type, tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance must be a finite number of at least 0"):
        cai.infer(graph(horizon=None, discount=0.9), method(tolerance=tolerance))


def test_solver_that_is_none() -> None:
    with pytest.raises(ValueError, match="solver.*'newton'"):
        cai.infer(graph(horizon=None, discount=0.9), cai.SoftValueIteration(solver="newton"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method",
    [
        cai.SoftValueIteration(solver=cai.methods.ValueIteration(), max_steps=3),
        cai.SoftValueIteration(solver=cai.methods.ValueIteration(max_steps=3)),
        cai.SoftPolicyIteration(max_steps=1),
        cai.SumProduct(max_steps=1),
    ],
    ids=str,
)
def test_not_converging_is_a_warning_and_data(method: Any) -> None:
    given = oracles.with_radius(oracles.random_problem(5, num_states=4, horizon=None, reward="sa", discount=0.95), 0.5)
    name, limit = type(method).__name__, 3 if isinstance(method, cai.SoftValueIteration) else 1
    with pytest.warns(cai.NotConverged, match=f"{name} stopped after {limit} steps with residual") as caught:
        posterior = cai.infer(graph_of(given), method)
    assert caught[0].filename == __file__  # the user's own line
    assert not posterior.stats.converged
    assert posterior.stats.num_steps == limit
    assert posterior.stats.residual > 0


def test_a_single_pass_converges() -> None:
    stats = cai.infer(graph(), cai.SumProduct()).stats
    assert (stats.num_steps, stats.converged, stats.residual, stats.estimates) == (3, True, 0.0, ())
    assert 0 <= stats.certified_error < 1e-12
    assert stats.seconds >= 0


def test_methods_are_values() -> None:
    assert cai.SoftValueIteration() == cai.SoftValueIteration()
    assert cai.SumProduct(tolerance=1e-3) != cai.SumProduct()
    assert len({cai.SumProduct(), cai.SumProduct()}) == 1
    with pytest.raises(AttributeError):
        cai.SumProduct().tolerance = 1.0  # type: ignore[misc]


# -- policy evaluation ------------------------------------------------------------------------------------------------


def categorical(*rows: Any) -> torch.distributions.Categorical:
    return torch.distributions.Categorical(probs=torch.tensor(rows))


POLICIES: dict[str, tuple[Any, str]] = {
    "text": ("greedy", "PolicyEvaluation: the policy's probabilities: cannot be read"),
    "none": (None, "PolicyEvaluation: the policy's probabilities: cannot be read"),
    "number": (0.5, r"\[S, A\]|\[4, 2\]"),
    "vector": ([0.5, 0.5], r"expected probs \[S, A\], got \[2\]"),
    "too few states": (
        np.full((3, 2), 0.5),
        r"expected probabilities \[4, 2\] or \[T, 4, 2\] with T = 3, got \[1, 3, 2\]",
    ),
    "too many steps": (np.full((4, 4, 2), 0.5), r"with T = 3, got \[4, 4, 2\]"),
    "rows": (np.full((4, 2), 0.4), r"\(state 0\) sums to 0.8, not 1"),
    "actions": (lambda s, t: torch.zeros_like(s), r"must return a Categorical of \[4, 2\], .* got Tensor"),
    "one state at a time": (lambda s, t: categorical(0.5, 0.5), r"for all states at once, got Categorical of \[2\]"),
    "other states": (lambda s, t: categorical([0.5, 0.5]), r"got Categorical of \[1, 2\]"),
    "another distribution": (lambda s, t: torch.distributions.Normal(0.0, 1.0), "got Normal"),
    "method": (cai.SumProduct(), "PolicyEvaluation"),
}


@pytest.mark.parametrize("policy, message", POLICIES.values(), ids=POLICIES)
def test_policies_that_cannot_be_read(policy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.infer(graph(), cai.PolicyEvaluation(policy))


def test_time_is_never_read_as_state() -> None:
    """A callable that forgets the states returns [A] a step; three steps of it are no table of three states."""
    rows = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    forgetful = cai.PolicyEvaluation(lambda s, t: torch.distributions.Categorical(probs=rows[t]))
    with pytest.raises(ValueError, match="for all states at once"):
        cai.infer(graph(num_states=3), forgetful)


def test_uniform_policy_is_bound_to_what_the_graph_allows() -> None:
    uniform = cai.infer(graph(), cai.PolicyEvaluation(cai.UniformPolicy()))
    np.testing.assert_allclose(uniform.policy(torch.arange(4)).probs, 0.5)
    available = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    some = cai.infer(graph().replace(action_prior=F.FlatPrior(available)), cai.PolicyEvaluation(cai.UniformPolicy()))
    expected = available.double() / available.sum(-1, keepdim=True)
    np.testing.assert_allclose(some.policy(torch.arange(4)).probs, expected)


def test_negative_temperature_of_the_entropy_term() -> None:
    with pytest.raises(ValueError, match="temperature: expected"):
        cai.infer(graph(), cai.PolicyEvaluation(np.full((4, 2), 0.5), temperature=-1.0))


def test_policy_is_kept_as_it_was() -> None:
    table = np.full((4, 2), 0.5)
    posterior = cai.infer(graph(), cai.PolicyEvaluation(table))
    table[:] = 7.0
    assert (posterior.method.policy.probs == 0.5).all()
    assert (posterior.policy(torch.arange(4)).probs == 0.5).all()
