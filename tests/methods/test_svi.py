"""`SVI`: exact bounds against brute force and Pyro's enumeration, optima against what is known in closed form."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch import Tensor

import cai
from cai.errors import NotConverged
from cai.methods import svi as svi_module
from cai.methods.guides.family import Effort
from cai.methods.guides.fixed_dynamics import FixedDynamicsGuide
from cai.methods.guides.mean_field import MeanFieldGuide
from cai.methods.svi import SVI
from tests import graph_oracles, oracles
from tests.graph.test_to_pyro import chain, cost, exact_chain
from tests.laws.build import graph_of

EFFORT = Effort(1, 1)


def quietly(graph: Any, method: SVI, **options: Any) -> Any:
    """Infers without the warning that few steps are not enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        return cai.infer(graph, method, **options)


def shaken(family: Any, seed: int = 0) -> None:
    """Puts random numbers in the place of a family's parameters."""
    generator = torch.Generator().manual_seed(seed)
    params = family.store.params
    family.store.fill({name: torch.randn(p.shape, dtype=p.dtype, generator=generator) for name, p in params.items()})


def by_enumeration(family: Any) -> float:
    """The loss by Pyro, which enumerates the sites of the guide."""
    with family.store.opened():
        return float(TraceEnum_ELBO(max_plate_nesting=0).loss(family.model, family.guide))


# -- policies in a fixed dynamics -------------------------------------------------------------------------------------

WORLDS: dict[str, dict[str, Any]] = {
    "plain": {"reward": "sa"},
    "reward of transitions": {"reward": "sas", "per_step": ("dynamics", "reward")},
    "restricted actions": {"prior": "restricted"},
    "counting measure": {"prior": "flat"},
    "discount": {"discount": 0.7},
    "terminal states": {"num_terminal": 1, "terminal_reward": True, "discount": 0.9, "num_states": 4},
}
worlds = pytest.mark.parametrize("options", WORLDS.values(), ids=WORLDS)


@pytest.mark.parametrize("name", sorted(set(WORLDS) - {"terminal states"}))  # there Pyro has inf for 0 log 0
def test_the_loss_of_policies_is_that_of_pyros_enumeration(name: str) -> None:
    family = FixedDynamicsGuide().family(graph_of(oracles.random_problem(41, **WORLDS[name])), EFFORT, 0)
    shaken(family)
    with family.store.opened():
        loss = float(family.loss().detach())
    assert loss == pytest.approx(by_enumeration(family), abs=1e-9)


@worlds
def test_the_best_policy_is_soft_value_iterations(options: dict[str, Any]) -> None:
    graph = graph_of(oracles.random_problem(42, **options))
    found, soft = quietly(graph, SVI(), seed=0), cai.infer(graph, cai.SoftValueIteration())
    assert found.is_bound
    assert -1e-10 < float(soft.log_evidence - found.log_evidence) < 1e-5
    visited = soft.state_marginals[:-1] > 1e-3
    states, times = torch.arange(graph.state_space.n), torch.arange(graph.horizon)[:, None]
    difference = found.policy(states, t=times).probs - soft.policy(states, t=times).probs
    assert difference[visited].abs().max() < 1e-2
    assert float(soft.log_evidence) <= float(cai.infer(graph, cai.SumProduct()).log_evidence) + 1e-10


def test_the_answer_is_the_policys_exact_evaluation() -> None:
    graph = graph_of(oracles.random_problem(43))
    found = quietly(graph, SVI(num_steps=5), seed=0)
    states = torch.arange(3)
    policy = torch.stack([found.policy(states, t=t).probs for t in range(3)])
    evaluated = cai.infer(graph, cai.PolicyEvaluation(cai.factors.TabularPolicy.per_step(policy)))
    assert torch.allclose(found.messages.q, evaluated.messages.q)
    assert torch.allclose(found.log_evidence, evaluated.log_evidence)
    assert torch.equal(found.sample(5, seed=1).states, evaluated.sample(5, seed=1).states)
    assert isinstance(found.method, SVI)
    assert (found.stats.num_steps, found.stats.converged) == (5, False)


def test_convergence_is_told() -> None:
    graph = graph_of(oracles.random_problem(44))
    stats = cai.infer(graph, SVI(), seed=0).stats
    assert stats.converged
    assert stats.residual <= 1e-6
    assert stats.num_steps < 2000
    with pytest.warns(NotConverged, match="stopped after 3 steps with a gradient of"):
        cai.infer(graph, SVI(num_steps=3))


# -- independent variables --------------------------------------------------------------------------------------------

KINDS = ["tree", "forest", "cycle", "higher order", "repeated scopes", "evidence", "one value each", "all observed"]


def small(kind: str, seed: int = 5) -> graph_oracles.Model:
    options = {"num": 6, "cards": (1, 2, 3)} | graph_oracles.KINDS[kind]
    return graph_oracles.random_model(seed, **options | {"num": 8 if kind == "all observed" else 6})


def everything(model: graph_oracles.Model) -> dict[str, Tensor]:
    """All assignments of a model's variables, observed ones as observed."""
    names = list(model.cards)
    ranges = [[model.evidence[name]] if name in model.evidence else range(model.cards[name]) for name in names]
    columns = zip(*itertools.product(*ranges), strict=True)
    return {name: torch.tensor(column) for name, column in zip(names, columns, strict=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_field_bound_is_exact_and_a_bound(kind: str) -> None:
    model = small(kind)
    graph = graph_oracles.factor_graph_of(model)
    found = quietly(graph, SVI(num_steps=20), seed=0)
    batch = everything(model)
    log_q, log_p = found.log_prob(batch), graph.log_density(batch)
    assert float(log_q.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    possible = log_q > -torch.inf
    by_sum = (log_q.exp()[possible] * (log_p - log_q)[possible]).sum()
    assert float(found.log_evidence) == pytest.approx(float(by_sum), abs=1e-10)
    assert found.is_bound
    assert float(found.log_evidence) <= model.log_evidence + 1e-10


@pytest.mark.parametrize("kind", ["tree", "cycle", "evidence"])
def test_the_loss_of_independent_variables_is_that_of_pyros_enumeration(kind: str) -> None:
    family = MeanFieldGuide().family(graph_oracles.factor_graph_of(small(kind)), EFFORT, 0)
    shaken(family)
    with family.store.opened():
        loss = float(family.loss().detach())
    assert loss == pytest.approx(by_enumeration(family), abs=1e-9)


@pytest.mark.parametrize("kind", ["tree", "higher order", "evidence"])
def test_the_optimum_is_a_fixed_point_of_coordinate_ascent(kind: str) -> None:
    """q_i(x_i) ~ exp E[log f(x) | x_i] for every variable, the others drawn from q."""
    model = small(kind)
    graph = graph_oracles.factor_graph_of(model)
    found = quietly(graph, SVI(tolerance=1e-7), seed=0)
    batch = everything(model)
    weights, log_p = found.log_prob(batch).exp(), graph.log_density(batch)
    for name in set(model.cards) - set(model.evidence):
        q = found.marginal(name)
        each = [(batch[name] == value) for value in range(model.cards[name])]
        expected = torch.stack([(weights[there] * log_p[there]).sum() / q[v] for v, there in enumerate(each)])
        assert torch.allclose(q, expected.softmax(0), atol=1e-5)


def test_without_edges_the_bound_is_tight() -> None:
    tables = [torch.tensor([0.3, -1.2, 2.0]).double(), torch.tensor([-torch.inf, 0.5]).double()]
    factors = tuple(cai.Factor((f"x{i}",), table, f"f{i}") for i, table in enumerate(tables))
    graph = cai.FactorGraph((cai.Variable("x0", 3), cai.Variable("x1", 2)), factors)
    found = cai.infer(graph, SVI(), seed=0)
    assert float(found.log_evidence) == pytest.approx(float(sum(table.logsumexp(0) for table in tables)), abs=1e-10)
    assert torch.allclose(found.marginal("x0", "x1"), tables[0].softmax(0)[:, None] * tables[1].softmax(0), atol=1e-6)


def test_what_factors_rule_out_one_by_one_has_probability_zero() -> None:
    """x0 = 1 is ruled out; then x1 = 1 can only be followed by x2 = 0."""
    inf = torch.inf
    steps = torch.tensor([[0.4, -inf], [-inf, 0.1]]).double()
    factors = (
        cai.Factor(("x0",), torch.tensor([1.0, -inf]).double(), "start"),
        cai.Factor(("x0", "x1"), steps, "first"),
        cai.Factor(("x1", "x2"), torch.tensor([[0.2, 0.7], [-inf, -inf]]).double(), "second"),
    )
    graph = cai.FactorGraph(tuple(cai.Variable(f"x{i}", 2) for i in range(3)), factors)
    found = cai.infer(graph, SVI(), seed=0)
    exact = cai.infer(graph, cai.SumProduct())
    for name in ("x0", "x1", "x2"):
        assert torch.allclose(found.marginal(name), exact.marginal(name), atol=1e-5)
    assert float(found.log_evidence) == pytest.approx(float(exact.log_evidence), abs=1e-9)


def test_samples_of_independent_variables() -> None:
    model = graph_oracles.random_model(6, **graph_oracles.KINDS["evidence"] | {"num": 6, "cards": (2, 3)})
    found = quietly(graph_oracles.factor_graph_of(model), SVI(num_steps=50), seed=0)
    drawn = found.sample(4000, seed=2)
    for name, size in model.cards.items():
        probs = found.marginal(name)
        counts = torch.bincount(drawn[name], minlength=size) / 4000
        slack = 5 * (probs * (1 - probs) / 4000).sqrt() + 1e-12
        assert ((counts - probs).abs() <= slack).all(), name
    assert torch.equal(found.sample(10, seed=3)["x1"], found.sample(10, seed=3)["x1"])
    known, value = next(iter(model.evidence.items()))
    one = {name: values[0] for name, values in drawn.items()}
    assert float(found.log_prob(one)) > -torch.inf
    assert float(found.log_prob(one | {known: 1 if value == 0 else 0})) == -torch.inf


def test_the_gradient_of_the_bound_is_the_marginal() -> None:
    model = small("cycle")
    tables = [torch.tensor(table, requires_grad=True) for _, table in model.factors]
    found = quietly(graph_oracles.factor_graph_of(model, tables), SVI(num_steps=30), seed=0)
    gradients = torch.autograd.grad(found.log_evidence, tables)
    for (scope, _), gradient in zip(model.factors, gradients, strict=True):
        assert torch.allclose(gradient, found.marginal(*scope), atol=1e-12)
    assert all(table.grad is None for table in tables)


def test_an_unrolled_trajectory_keeps_its_readings() -> None:
    graph = graph_of(oracles.random_problem(45, horizon=2, prior="uniform")).unroll()
    found = quietly(graph, SVI(), seed=0)
    assert found.state_marginals.shape == (3, 3)
    assert torch.allclose(found.policy(torch.arange(3), t=1).probs, found.marginal("a1").expand(3, 2))


# -- guides of Pyro ---------------------------------------------------------------------------------------------------

QUICK = SVI(num_steps=200, learning_rate=0.1)


def test_a_full_normal_guide_finds_a_gaussian_posterior() -> None:
    mean, covariance, evidence = exact_chain()
    found = quietly(chain(), QUICK, seed=0)
    weights = found.program.draw(2000, 3).log_weights
    error = float(weights.std()) / len(weights) ** 0.5
    assert float(weights.mean()) < evidence + 5 * error
    assert float(weights.mean()) > evidence - 0.1 - 5 * error
    assert float(found.log_evidence) == pytest.approx(float(weights.mean()), abs=5 * error * (1 + 2**0.5))
    assert found.is_bound
    assert found.stats.estimates == ("log_evidence", "policy")
    for t in range(3):
        exact_mean, exact_scale = float(mean[1 + 2 * t]), float(covariance[1 + 2 * t, 1 + 2 * t]) ** 0.5
        plan = found.policy(torch.zeros(4), t=t)
        assert plan.batch_shape == (4,)
        assert abs(float(plan.mean[0]) - exact_mean) < 0.25 * exact_scale
        assert float(plan.stddev[0]) == pytest.approx(exact_scale, rel=0.2)


def test_samples_are_replayed_in_the_graph() -> None:
    found = quietly(chain(), SVI(num_steps=10), seed=0)
    drawn = found.sample(6, seed=1, length=2)
    assert drawn.states.shape == (6, 3)
    assert torch.allclose(drawn.rewards, cost(drawn.states[:, :2], drawn.actions))
    assert torch.equal(drawn.actions, found.sample(6, seed=1).actions[:, :2])
    assert not drawn.terminated.any()
    with pytest.raises(ValueError, match=r"a length within 1\.\.3, got 6 and 4"):
        found.sample(6, length=4)


def summing(state: Tensor, action: Tensor) -> Tensor:
    """A reward that adds up over whatever batch it is given: right for one trajectory only."""
    return cost(state, action).sum()


def test_factors_that_do_not_broadcast_are_run_one_by_one() -> None:
    method = SVI(num_steps=30, num_particles=2, num_evaluations=20)
    alone, together = (quietly(chain(reward=reward), method, seed=0) for reward in (summing, cost))
    assert (alone.program.broadcasts, together.program.broadcasts) == (False, True)
    drawn = alone.sample(4, seed=1)
    assert torch.allclose(drawn.rewards, cost(drawn.states[:, :-1], drawn.actions))


def own_guide() -> None:
    """Independent normals, with parameters of their own."""
    for name in ("s0", "a0", "s1", "a1", "s2", "a2", "s3"):
        mean = pyro.param(f"{name}_mean", torch.tensor(0.5, dtype=torch.float64))
        scale = pyro.param(f"{name}_scale", torch.tensor(0.5).double(), constraint=dist.constraints.positive)
        pyro.sample(name, dist.Normal(mean, scale))


@pytest.mark.parametrize("guide", [own_guide, AutoNormal, lambda program: AutoNormal(program, init_scale=0.2)])
def test_guides_of_every_form(guide: Callable[..., Any]) -> None:
    first = quietly(chain(), SVI(guide=guide, num_steps=1), seed=0)
    last = quietly(chain(), SVI(guide=guide, num_steps=50, learning_rate=0.1), seed=0)
    assert float(first.log_evidence) < float(last.log_evidence) < exact_chain()[2]


def test_a_guide_with_parameters_of_its_own_is_copied() -> None:
    with pyro.get_param_store().scope():
        guide = AutoNormal(chain().to_pyro())
        guide()
        before = {name: param.detach().clone() for name, param in guide.named_parameters()}
    quietly(chain(), SVI(guide=guide, num_steps=5), seed=0)
    assert all(torch.equal(param, before[name]) for name, param in guide.named_parameters())


def test_a_point_has_no_bound() -> None:
    found = quietly(chain(), SVI(guide=AutoDelta, num_steps=5), seed=0)
    with pytest.raises(cai.Unavailable, match="its guide is a point"):
        _ = found.log_evidence
    assert found.sample(2, seed=0).actions.std(0).max() == 0.0


def test_a_known_start_and_discrete_actions() -> None:
    """One action of two; the guide learns which is better, p(a0 = 1 | O) = sigmoid(2)."""

    def guide() -> None:
        logit = pyro.param("logit", torch.zeros(()).double())
        pyro.sample("a0", dist.Categorical(logits=torch.stack([torch.zeros_like(logit), logit], -1)))

    graph = cai.TrajectoryGraph(
        cai.factors.Delta(torch.zeros(2).double()),
        lambda state, action: dist.Delta(state + action[..., None], event_dim=1),
        lambda state, action: 2.0 * action,
        horizon=1,
        action_space=gymnasium.spaces.Discrete(2),
    )
    found = quietly(graph, SVI(guide=guide, num_steps=200, learning_rate=0.1, num_evaluations=4000), seed=0)
    probs = found.policy(torch.zeros(3, 2)).probs
    assert probs.shape == (3, 2)
    assert abs(float(probs[0, 1]) - 1 / (1 + np.exp(-2))) < 0.05
    assert torch.equal(found.sample(5, seed=0).states[:, 0], torch.zeros(5, 2).double())


# -- seeds, checkpoints, files ----------------------------------------------------------------------------------------

FEW = SVI(num_steps=12, num_particles=2, num_evaluations=10)
ASKED: dict[str, Callable[[], Any]] = {
    "policies": lambda: graph_of(oracles.random_problem(46)),
    "independent": lambda: graph_oracles.factor_graph_of(small("cycle")),
    "a guide": chain,
}
asked = pytest.mark.parametrize("build", ASKED.values(), ids=ASKED)


def numbers_of(posterior: Any) -> list[Tensor]:
    """The evidence, and everything else that a posterior holds."""
    if hasattr(posterior, "messages"):
        return [posterior.log_evidence.detach(), posterior.messages.q.detach(), posterior.given.detach()]
    if hasattr(posterior, "log_probs"):
        return [posterior.log_evidence.detach(), *posterior.log_probs.values()]
    return [posterior.log_evidence, posterior.actions, *posterior.program.store.values().values()]


def same(first: Any, second: Any) -> bool:
    pairs = list(zip(numbers_of(first), numbers_of(second), strict=True))
    return all(torch.equal(a, b) for a, b in pairs)


@asked
def test_a_seed_makes_a_run_repeatable_and_leaves_no_trace(build: Callable[[], Any]) -> None:
    pyro.get_param_store().clear()
    kept = pyro.param("kept", torch.tensor(1.5))
    before = torch.random.get_rng_state()
    first, second = (quietly(build(), FEW, seed=7) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(pyro.get_param_store()) == ["kept"]
    assert pyro.param("kept") is kept
    pyro.get_param_store().clear()
    assert same(first, second)
    if build is not ASKED["policies"]:  # policies start at the prior, and nothing is drawn
        assert not same(first, quietly(build(), FEW, seed=8))


class Interrupt(cai.AbstractCallback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_step(self, progress: Any) -> None:
        if progress.num_steps >= self.after:
            raise KeyboardInterrupt


@asked
def test_a_resumed_run_ends_in_the_same_numbers(
    build: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svi_module, "_SECONDS", 0.0)  # one step at a time
    path, graph = tmp_path / "svi.cai", build()
    whole = quietly(graph, FEW, seed=3)
    with pytest.raises(KeyboardInterrupt):
        quietly(graph, FEW, seed=3, callbacks=[cai.Checkpoint(path), Interrupt(5)])
    resumed = quietly(graph, FEW, seed=99, resume=path)
    assert resumed.stats.num_steps == 12
    assert same(resumed, whole)


def test_the_length_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quietly(chain(), FEW, seed=3)
    monkeypatch.setattr(svi_module, "_SECONDS", 0.0)
    assert same(quietly(chain(), FEW, seed=3), whole)


@asked
def test_posteriors_are_saved(build: Callable[[], Any], tmp_path: Path) -> None:
    graph = build()
    found = quietly(graph, SVI(guide=AutoMultivariateNormal, num_steps=5) if build is chain else FEW, seed=1)
    found.save(tmp_path / "posterior.cai")
    back = cai.load(tmp_path / "posterior.cai", graph=graph if build is chain else None)
    assert same(found, back)
    assert back.method == found.method
    drawn, again = found.sample(3, seed=4), back.sample(3, seed=4)
    pairs = (
        zip(drawn.values(), again.values(), strict=True) if isinstance(drawn, dict) else [(drawn.states, again.states)]
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_guide_of_the_user_is_filled_in(tmp_path: Path) -> None:
    graph, method = chain(), SVI(guide=lambda program: AutoMultivariateNormal(program), num_steps=5)
    found = quietly(graph, method, seed=1)
    found.save(tmp_path / "posterior.cai")
    with pytest.raises(ValueError, match="was saved without its guide; give method= with one"):
        cai.load(tmp_path / "posterior.cai", graph=graph)
    back = cai.load(tmp_path / "posterior.cai", graph=graph, method=method)
    assert torch.equal(back.sample(3, seed=4).states, found.sample(3, seed=4).states)


def test_tensors_of_the_user_get_no_gradient() -> None:
    pull = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    quietly(chain(reward=lambda s, a: -pull * s**2), FEW, seed=0)
    assert pull.grad is None


# -- refusals ---------------------------------------------------------------------------------------------------------


def not_a_number_from(bound: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A reward that is NaN once any action is beyond a bound."""
    return lambda s, a: torch.where(a.abs() > bound, torch.nan, -((a - 3.0) ** 2))


def test_a_loss_that_is_not_finite_is_refused_with_the_parameters_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []

    class Watch(cai.AbstractCallback):
        def on_step(self, progress: Any) -> None:
            seen.append(progress.checkpoint.params)

    monkeypatch.setattr(svi_module, "_SECONDS", 0.0)
    method = SVI(num_steps=200, learning_rate=0.1, num_particles=2)
    with pytest.raises(cai.NonFinite, match=r"SVI: at step \d+ .*nan.*; the parameters are those before it"):
        cai.infer(chain(reward=not_a_number_from(1.5)), method, seed=0, callbacks=[Watch()])
    assert seen
    assert all(torch.isfinite(param).all() for param in seen[-1].values())


TABLES = graph_of(oracles.random_problem(47))
FORBIDDING = cai.Factor(("x0", "x1"), torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]).double(), "not both")
PAIR = (cai.Variable("x0", 2), cai.Variable("x1", 2))
IMPOSSIBLE = (
    cai.Factor(("x0",), torch.tensor([0.0, -torch.inf]).double(), "low"),
    cai.Factor(("x0",), torch.tensor([-torch.inf, 0.0]).double(), "high"),
)


@pytest.mark.parametrize(
    ("graph", "guide", "message"),
    [
        (TABLES.replace(horizon=None, discount=0.9), None, "SVI needs a finite horizon; .* SoftValueIteration"),
        (TABLES.replace(temperature=0.0), None, "SVI needs a positive temperature"),
        (TABLES.replace(reward=None), None, "SVI needs the graph's reward, which is None"),
        (TABLES.condition(states={1: 0}), None, "with evidence the dynamics would have to change; SumProduct"),
        (TABLES, MeanFieldGuide(), "MeanFieldGuide answers a FactorGraph, got a TrajectoryGraph"),
        (TABLES.replace(discount=0.9), AutoNormal, "no absorbing state for the discount"),
        (TABLES, AutoNormal, "the guide AutoNormal cannot be set up on this graph"),
        (TABLES.unroll(), FixedDynamicsGuide(), "needs tables of the dynamics .* got FactorGraph"),
        (TABLES.unroll(), AutoNormal, "a Pyro guide answers trajectory graphs, got a FactorGraph"),
        (chain(), FixedDynamicsGuide(), "needs tables of the dynamics .* got function"),
        (chain(discount=0.9), None, "no absorbing state for the discount"),
        (chain(reward=lambda s, a: torch.zeros(2)), None, "SVI needs the graph as a Pyro program: to_pyro: reward"),
        (cai.FactorGraph(PAIR, (FORBIDDING,)), None, "a factor on x0, x1 forbids combinations"),
        (cai.FactorGraph(PAIR, IMPOSSIBLE), None, "the evidence has probability zero"),
        (cai.FactorGraph(PAIR, (FORBIDDING,), {"x0": 0, "x1": 1}), None, "the evidence has probability zero"),
        (3, None, "SVI answers trajectory graphs and factor graphs, not a int"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_graphs_that_are_refused(graph: Any, guide: Any, message: str) -> None:
    with pytest.raises(cai.IncompatibleMethod, match=message):
        cai.infer(graph, SVI(guide=guide))


def test_an_environment_is_refused() -> None:
    with pytest.raises(cai.IncompatibleMethod, match="the graph's can only be stepped"):
        cai.infer(cai.from_gym("CartPole-v1", horizon=3), SVI())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": "normal"}, "expected a guide such as"),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1"),
        ({"num_particles": 0}, "num_particles must be a whole number of at least 1"),
        ({"learning_rate": 0.0}, "a positive learning_rate"),
        ({"decay": 2.0}, r"a decay in \(0, 1\]"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.infer(TABLES, SVI(**options))
