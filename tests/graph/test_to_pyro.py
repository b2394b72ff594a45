"""Graphs as Pyro programs: the same joint density, the same evidence, and the way back by `from_pyro`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

import cai
from cai.graph.conversions.from_programs import from_pyro
from tests import graph_oracles, oracles
from tests.laws.build import graph_of

Program = Callable[[], None]


def log_joint(program: Program, values: dict[str, Any]) -> Tensor:
    """The joint log-density of a program at values of its latent sites, by Pyro."""
    data = {name: torch.as_tensor(value) for name, value in values.items()}
    return poutine.trace(poutine.condition(program, data=data)).get_trace().log_prob_sum()


def log_evidence(program: Program) -> float:
    """Pyro's enumeration of all sites."""
    return -float(TraceEnum_ELBO(max_plate_nesting=0).loss(program, lambda: None))


def assignments(graph: cai.FactorGraph) -> Iterator[dict[str, int]]:
    """Every assignment of the latent variables."""
    latent = [variable for variable in graph.variables if variable.name not in graph.evidence]
    for values in itertools.product(*(range(variable.cardinality) for variable in latent)):
        yield {variable.name: value for variable, value in zip(latent, values, strict=True)}


def same_densities(graph: cai.FactorGraph, back: cai.FactorGraph) -> None:
    """Two graphs on the same latent variables have the same density everywhere."""
    everywhere = list(assignments(graph))
    batch = {name: torch.tensor([assignment[name] for assignment in everywhere]) for name in everywhere[0]}
    assert back.cardinalities == {name: graph.cardinalities[name] for name in batch}
    expected, found = graph.log_density(batch), back.log_density(batch)
    assert torch.equal(torch.isneginf(expected), torch.isneginf(found))
    possible = ~torch.isneginf(expected)
    assert torch.allclose(found[possible], expected[possible], rtol=1e-12, atol=1e-12)


# -- factor graphs ----------------------------------------------------------------------------------------------------

#: What Pyro's log-space product survives; and without latent variables it complains.
MILD = {
    name: options
    for name, options in graph_oracles.KINDS.items()
    if options.get("scale", 1.0) == 1.0 and name != "all observed"
}


@pytest.mark.parametrize("options", MILD.values(), ids=MILD)
def test_evidence_of_a_factor_graph(options: dict[str, Any]) -> None:
    model = graph_oracles.random_model(3, **options)
    found = log_evidence(graph_oracles.factor_graph_of(model).to_pyro())
    assert found == pytest.approx(model.log_evidence, abs=1e-9)


SMALL = {name: {**options, "num": 5, "cards": (1, 2, 3)} for name, options in graph_oracles.KINDS.items()}


@pytest.mark.parametrize("name", ["cycle", "forest", "zeros", "evidence in a tree", "higher order", "far apart"])
def test_a_factor_graph_comes_back(name: str) -> None:
    graph = graph_oracles.factor_graph_of(graph_oracles.random_model(4, **SMALL[name]))
    same_densities(graph, from_pyro(graph.to_pyro()))


def test_names_that_are_taken_get_a_number() -> None:
    table = torch.tensor([0.0, 1.0]).double()
    factors = (cai.Factor(("x",), table, "x"), cai.Factor(("x",), table, "f"), cai.Factor(("x",), table, "f"))
    graph = cai.FactorGraph((cai.Variable("x", 2), cai.Variable("cardinalities", 2)), factors)
    sites = [name for name in poutine.trace(graph.to_pyro()).get_trace().nodes if not name.startswith("_")]
    assert set(sites) == {"x", "cardinalities", "x 2", "f", "f 2", "cardinalities 2"}
    assert log_evidence(graph.to_pyro()) == pytest.approx(float(np.log(2) + np.log(1 + np.exp(3))), abs=1e-12)


def test_a_graph_of_nothing() -> None:
    graph = cai.FactorGraph((), (cai.Factor((), torch.tensor(0.25).double(), "constant"),))
    assert float(poutine.trace(graph.to_pyro()).get_trace().log_prob_sum()) == 0.25


def test_many_variables_in_a_chain_can_be_enumerated() -> None:
    """The variables stand in no useful order, and factors neither: 130 of them would not fit into 64 dimensions."""
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(129, 2, 2))
    order = rng.permutation(130)
    graph = cai.FactorGraph(
        tuple(cai.Variable(f"x{i}", 2) for i in order),
        tuple(cai.Factor((f"x{i}", f"x{i + 1}"), tables[i], f"f{i}") for i in rng.permutation(129)),
    )
    product = np.eye(2)
    for table in tables:
        product = product @ np.exp(table)
    assert log_evidence(graph.to_pyro()) == pytest.approx(np.log(product.sum()), abs=1e-9)


def test_too_many_neighbours_for_pyros_enumeration() -> None:
    pairs = itertools.combinations(range(61), 2)
    graph = cai.FactorGraph(
        tuple(cai.Variable(f"x{i}", 2) for i in range(61)),
        tuple(cai.Factor((f"x{i}", f"x{j}"), torch.zeros(2, 2).double(), f"f{i}-{j}") for i, j in pairs),
    )
    with pytest.raises(ValueError, match="enumerate 61 of the 61 variables at once"):
        log_evidence(graph.to_pyro())
    total = poutine.trace(graph.to_pyro()).get_trace().log_prob_sum()  # other inference may run
    assert float(total) == pytest.approx(0.0, abs=1e-12)


# -- tabular trajectories ---------------------------------------------------------------------------------------------

TABULAR: dict[str, dict[str, Any]] = {
    "plain": {},
    "restricted actions": {"prior": "restricted", "density": 0.5},
    "counting measure": {"prior": "flat", "reward": "sa"},
    "discount": {"discount": 0.7, "horizon": 2},
    "terminal states": {"num_terminal": 1, "terminal_reward": True, "reward": "s"},
    "all at once": {"num_terminal": 1, "terminal_reward": True, "discount": 0.8, "per_step": ("dynamics",)},
}


@pytest.mark.parametrize("options", TABULAR.values(), ids=TABULAR)
def test_a_trajectory_graph_comes_back(options: dict[str, Any]) -> None:
    graph = graph_of(oracles.random_problem(31, **({"horizon": 2} | options)))
    same_densities(graph.unroll(), from_pyro(graph.to_pyro()))


@pytest.mark.parametrize("options", TABULAR.values(), ids=TABULAR)
def test_a_trajectory_graph_with_a_known_action_comes_back(options: dict[str, Any]) -> None:
    """The known action's probability depends on the state, and is 1 where the episode has ended."""
    graph = graph_of(oracles.random_problem(33, **({"horizon": 2} | options)))
    known = graph.condition(actions={1: 0})
    same_densities(known.unroll(), from_pyro(known.to_pyro()))


def test_tables_of_two_dtypes_can_be_enumerated() -> None:
    x, y = cai.Variable("x", 2), cai.Variable("y", 2)
    tables = (torch.tensor([0.5, -0.25]), torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.float64))
    graph = cai.FactorGraph((x, y), (cai.Factor(("x",), tables[0]), cai.Factor(("x", "y"), tables[1])))
    exact = torch.logsumexp((tables[0].double()[:, None] + tables[1]).flatten(), 0)
    assert log_evidence(graph.to_pyro()) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize("prior", ["tabular", "restricted"])
def test_a_trajectory_graph_with_evidence_comes_back(prior: str) -> None:
    """With restricted actions the known action is not available in some states: density zero, not an error."""
    graph = graph_of(oracles.random_problem(32, prior=prior, horizon=2)).condition(states={2: 1}, actions={0: 1})
    if prior == "restricted":
        assert (graph.action_prior.probs[:, 1] == 0).any()
    same_densities(graph.unroll(), from_pyro(graph.to_pyro()))


# -- continuous trajectories ------------------------------------------------------------------------------------------

HORIZON, ALPHA = 3, 0.5


def drive(state: Tensor, action: Tensor) -> dist.Normal:
    return dist.Normal(0.9 * state + 0.5 * action, 0.3)


def cost(state: Tensor, action: Tensor) -> Tensor:
    return -0.5 * (state - 1.0) ** 2 - 0.1 * action**2


def chain(**changes: Any) -> cai.TrajectoryGraph:
    arguments: dict[str, Any] = {
        "initial": dist.Normal(torch.zeros((), dtype=torch.float64), 0.5),
        "dynamics": drive,
        "reward": cost,
        "horizon": HORIZON,
        "temperature": ALPHA,
        "action_prior": lambda state: torch.distributions.Normal(torch.zeros_like(state), 1.5),
        "terminal_reward": lambda state: -((state - 2.0) ** 2),
    }
    return cai.TrajectoryGraph(**(arguments | changes))


def chain_density(x: Tensor) -> Tensor:
    """Log p(s_0, a_0, ..., s_T, O) written by hand; x is [s_0, a_0, s_1, a_1, s_2, a_2, s_3]."""

    def log_normal(value: Tensor, mean: Any, scale: float) -> Tensor:
        return -0.5 * ((value - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)

    states, actions = x[0::2], x[1::2]
    total = log_normal(states[0], 0.0, 0.5) - (states[-1] - 2.0) ** 2 / ALPHA
    for t in range(HORIZON):
        total = total + log_normal(actions[t], 0.0, 1.5)
        total = total + log_normal(states[t + 1], 0.9 * states[t] + 0.5 * actions[t], 0.3)
        total = total + (-0.5 * (states[t] - 1.0) ** 2 - 0.1 * actions[t] ** 2) / ALPHA
    return total


def exact_chain() -> tuple[Tensor, Tensor, float]:
    """Mean, covariance and log evidence of that Gaussian, by its Hessian."""
    zero = torch.zeros(2 * HORIZON + 1, dtype=torch.float64, requires_grad=True)
    value = chain_density(zero)
    (slope,) = torch.autograd.grad(value, zero, create_graph=True)
    precision = -torch.autograd.functional.hessian(chain_density, zero.detach())
    covariance = precision.inverse()
    mean = covariance @ slope.detach()
    evidence = value + 0.5 * slope @ mean + 0.5 * len(mean) * np.log(2 * np.pi) - 0.5 * precision.logdet()
    return mean, covariance, float(evidence.detach())


SITES = ["s0", "a0", "s1", "a1", "s2", "a2", "s3"]


def test_a_continuous_program_has_the_graphs_density() -> None:
    x = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = log_joint(chain().to_pyro(), dict(zip(SITES, x, strict=True)))
    assert float(found) == pytest.approx(float(chain_density(x)), rel=1e-12)


def test_a_continuous_program_broadcasts_over_particles() -> None:
    """A plate to the left makes a batch of trajectories, each with the density of its own."""
    x = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    program = chain().to_pyro()

    def batch() -> None:
        with pyro.plate("particles", 5, dim=-1):
            program()

    found = log_joint(batch, dict(zip(SITES, x, strict=True)))
    assert float(found) == pytest.approx(float(sum(chain_density(column) for column in x.T)), rel=1e-12)


@pytest.mark.slow
def test_nuts_finds_the_posterior_of_a_linear_gaussian_chain() -> None:
    mean, covariance, _ = exact_chain()
    with torch.random.fork_rng():
        pyro.set_rng_seed(0)
        sampler = MCMC(NUTS(chain().to_pyro()), num_samples=400, warmup_steps=200, disable_progbar=True)
        sampler.run()
    draws = sampler.get_samples()
    for place, name in enumerate(SITES):
        effective = float(pyro.ops.stats.effective_sample_size(draws[name][None]))
        error = float(covariance[place, place] / effective) ** 0.5
        assert abs(float(draws[name].mean() - mean[place])) < 5 * error, name


def test_svi_approaches_the_evidence_of_a_linear_gaussian_chain() -> None:
    """A multivariate normal guide can be exact: its bound is below the evidence, and comes near."""
    _, _, evidence = exact_chain()
    program = chain().to_pyro()
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        guide = AutoMultivariateNormal(program, init_scale=0.3)
        elbo = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=0)
        svi = SVI(program, guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.97}), elbo)
        for _ in range(150):
            svi.step()
        exact = Trace_ELBO(num_particles=1000, vectorize_particles=True, max_plate_nesting=0)
        bounds = torch.tensor([-exact.loss(program, guide) for _ in range(10)])
    error = float(bounds.std() / len(bounds) ** 0.5)
    assert float(bounds.mean()) < evidence + 5 * error
    assert float(bounds.mean()) > evidence - 0.1 - 5 * error


VECTOR = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0)  # a batch of two: one state of two dimensions


def spread(space: gymnasium.Space | None, prior: Any = None) -> cai.TrajectoryGraph:
    """States of two dimensions, actions of whatever the space has, rewards of one transition."""

    def step(state: Tensor, action: Tensor) -> torch.distributions.Distribution:
        push = action.to(state.dtype)
        return torch.distributions.Normal(state + (push[..., None] if push.dim() < state.dim() else push), 1.0)

    def reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return -(next_state - state).square().sum(-1)

    return cai.TrajectoryGraph(VECTOR, step, reward, horizon=1, action_space=space, action_prior=prior)


def box(low: Any, high: Any) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(np.full(2, low), np.full(2, high), dtype=np.float64)


@pytest.mark.parametrize(
    ("space", "prior", "action", "expected"),
    [
        (box(-1.0, 3.0), None, [0.5, -0.5], -2 * np.log(4.0)),
        (box(-1.0, 3.0), cai.factors.FlatPrior(), [0.5, -0.5], 0.0),
        (box(-np.inf, np.inf), None, [0.5, -0.5], 0.0),
        (gymnasium.spaces.Discrete(3), None, 2, -np.log(3.0)),
        (gymnasium.spaces.Discrete(3), cai.factors.FlatPrior(), 2, 0.0),
        (None, lambda state: torch.distributions.Normal(state, 1.0), [0.5, -0.5], "normal"),
    ],
    ids=["bounded", "bounded, flat", "unbounded", "discrete", "discrete, flat", "callable"],
)
def test_the_measure_of_an_action(space: Any, prior: Any, action: Any, expected: Any) -> None:
    program = spread(space, prior).to_pyro()
    start = torch.tensor([0.1, 0.2], dtype=torch.float64)
    values = {"s0": start, "a0": torch.tensor(action), "s1": torch.tensor([0.3, 0.4], dtype=torch.float64)}
    trace = poutine.trace(poutine.condition(program, data=values)).get_trace()
    trace.compute_log_prob()
    if expected == "normal":
        expected = float(torch.distributions.Normal(start, 1.0).log_prob(torch.tensor(action)).sum())
    assert float(trace.nodes["a0"]["log_prob"]) == pytest.approx(expected, rel=1e-12)
    assert float(trace.nodes["O0"]["log_prob"]) == pytest.approx(-0.08, rel=1e-12)
    assert poutine.trace(program).get_trace().nodes["s1"]["value"].shape == (2,)


def test_a_certain_state_is_an_observed_site() -> None:
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    graph = spread(box(-1.0, 1.0)).replace(initial=cai.factors.Delta(start))
    trace = poutine.trace(graph.to_pyro()).get_trace()
    assert trace.nodes["s0"]["is_observed"]
    assert torch.equal(trace.nodes["s0"]["value"], start)
    assert not trace.nodes["s1"]["is_observed"]


def test_discrete_factors_that_are_callables_can_be_enumerated() -> None:
    """The same world as tables and as functions has the same evidence."""
    problem = oracles.random_problem(33, prior="uniform", reward="sas")
    graph = graph_of(problem)
    probs, rewards = torch.as_tensor(problem.dynamics), torch.as_tensor(problem.reward)
    functions = cai.TrajectoryGraph(
        graph.initial,
        lambda state, action: dist.Categorical(probs=probs[state, action]),
        lambda state, action, next_state: rewards[state, action, next_state],
        horizon=graph.horizon,
        temperature=graph.temperature,
        action_space=graph.action_space,
    )
    exact = cai.infer(graph, cai.SumProduct()).log_evidence
    assert log_evidence(functions.to_pyro()) == pytest.approx(float(exact), abs=1e-9)


class Ending:
    """Dynamics that ends episodes."""

    def __call__(self, state: Tensor, action: Tensor) -> dist.Normal:
        return drive(state, action)

    def terminal(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return next_state > 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": None}, "needs a finite horizon"),
        ({"discount": 0.9}, r"a discount \(0.9\) is an absorbing state"),
        ({"temperature": 0.0}, "at temperature 0"),
        ({"dynamics": Ending()}, "the dynamics ends episodes"),
        ({"dynamics": None}, "dynamics must be a callable factor, got NoneType"),
        ({"dynamics": lambda state, action: state}, "dynamics must return a distribution, got Tensor"),
        ({"dynamics": lambda s, a: dist.Normal(torch.zeros(2), 1.0)}, r"dynamics gives states of shape \[2\]"),
        ({"initial": lambda: 3.0}, "initial must return a distribution, got float"),
        ({"reward": lambda s, a: torch.zeros(4)}, r"reward must be one number .* got shape \[4\]"),
        ({"terminal_reward": lambda s: torch.zeros(1)}, r"terminal_reward must be one number .* got shape \[1\]"),
        ({"action_prior": None}, "no default action prior on None"),
        ({"action_prior": None, "action_space": box([0, -np.inf], [1, np.inf])}, "no default action prior on Box"),
        ({"action_prior": 3.0}, "action_prior must be callable, got float"),
        ({"action_prior": cai.factors.FlatPrior(torch.ones(2, 2, dtype=torch.bool))}, "FlatPrior.available."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chain(**changes).to_pyro()


def test_an_environment_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="an environment can only be stepped"):
        cai.from_gym("CartPole-v1", horizon=3).to_pyro()


def test_writing_leaves_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    chain().to_pyro()
    assert torch.equal(torch.random.get_rng_state(), before)
