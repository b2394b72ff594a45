"""Derivatives of the evidence: envelope identities exactly, every factor parameter against finite differences.

Laws: d(alpha log p(O)) / d r = p(s_t, a_t | O) and d(E V) / d r = discounted occupancy of pi*.
Oracles: the right-hand sides by enumeration or a dense linear solve; for the parameters of the other factors, central
differences of the numpy oracle (step 1e-5, so good to about 1e-9).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, numpy_of
from tests.laws.cases import cases

METHODS = {"fixed": cai.SoftValueIteration, "posterior": cai.SumProduct}
readings = pytest.mark.parametrize("reading", METHODS)


def infer(graph: cai.TrajectoryGraph, reading: str) -> cai.Posterior:
    return cai.infer(graph, METHODS[reading]())


def pair_weights(problem: oracles.Problem, reading: str) -> np.ndarray:
    """p(s_t, a_t | O), or discount^t p(s_t, a_t) under pi*: what d(alpha log evidence) / d r must be, `[T, S, A]`."""
    if reading == "posterior":
        return oracles.enumerate_posterior(problem).state_action_marginals
    policy = oracles.backward(problem, "fixed").policy
    pairs = oracles.enumerate_policy(problem, policy).state_action_marginals
    return problem.discount ** np.arange(problem.horizon)[:, None, None] * pairs


@cases
@readings
def test_envelope_per_step(options: dict, reading: str) -> None:
    """One free reward [T, S, A]: its derivative is the occupancy of each step."""
    shapes = {"reward": "sa", "per_step": tuple({"reward", *options.get("per_step", ())})}
    problem = oracles.random_problem(31, **(options | shapes))
    values = torch.tensor(problem.reward, requires_grad=True)
    posterior = infer(graph_of(problem, reward=cai.factors.TabularReward.per_step(values)), reading)
    (gradient,) = torch.autograd.grad(problem.temperature * posterior.log_evidence, values)
    assert_close(gradient, pair_weights(problem, reading))
    assert_close(gradient, posterior.occupancy)


@readings
@pytest.mark.parametrize("kind", ["s", "sa"])
def test_envelope_of_a_shared_reward(reading: str, kind: str) -> None:
    problem = oracles.random_problem(32, reward=kind, num_terminal=1, discount=0.9)
    values = torch.tensor(problem.reward, requires_grad=True)
    posterior = infer(graph_of(problem, reward=cai.factors.TabularReward(values)), reading)
    (gradient,) = torch.autograd.grad(problem.temperature * posterior.log_evidence, values)
    expected = pair_weights(problem, reading).sum(0)
    assert_close(gradient, expected.sum(-1) if kind == "s" else expected)


@cases
@readings
def test_envelope_of_the_terminal_reward(options: dict, reading: str) -> None:
    """d(alpha log evidence) / d terminal reward = the (discounted) probability of ending in each state."""
    problem = oracles.random_problem(30, **(options | {"terminal_reward": True}))
    values = torch.tensor(problem.terminal_reward, requires_grad=True)
    posterior = infer(graph_of(problem, terminal_reward=cai.factors.TabularReward(values)), reading)
    (gradient,) = torch.autograd.grad(problem.temperature * posterior.log_evidence, values)
    if reading == "posterior":
        expected = oracles.enumerate_posterior(problem).state_marginals[-1]
    else:
        expected = np.zeros(problem.num_states)
        policy = oracles.backward(problem, "fixed").policy
        for path in oracles.paths(problem):
            log_q = path.log_dynamics + path.log_policy(policy)
            expected[path.states[-1]] += np.exp(log_q) * problem.discount ** len(path.actions)
    assert_close(gradient, expected)


def central_difference(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        there, back = x.copy(), x.copy()
        there[i] += step
        back[i] -= step
        gradient[i] = (f(there) - f(back)) / (2 * step)
    return gradient


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def probs(name: str, factor: Callable[..., object]) -> tuple[Callable, Callable]:
    """A table of probabilities through a softmax of its logarithms, so that rows stay normalised."""
    return (
        lambda problem, x: problem.replace(**{name: softmax(x)}),
        lambda x: {"action_prior" if name == "prior" else name: factor(torch.softmax(x, -1))},
    )


PARAMETERS = {
    "dynamics": probs("dynamics", cai.factors.TabularDynamics),
    "prior": probs("prior", cai.factors.TabularPolicy),
    "initial": probs("initial", lambda x: cai.factors.Categorical(probs=x)),
    "initial logits": (
        lambda problem, x: problem.replace(initial=softmax(x)),
        lambda x: {"initial": cai.factors.Categorical(logits=x)},
    ),
    "reward": (
        lambda problem, x: problem.replace(reward=x),
        lambda x: {"reward": cai.factors.TabularReward(x)},
    ),
    "terminal_reward": (
        lambda problem, x: problem.replace(terminal_reward=x),
        lambda x: {"terminal_reward": cai.factors.TabularReward(x)},
    ),
    "temperature": (
        lambda problem, x: problem.replace(temperature=float(x)),
        lambda x: {"temperature": x},
    ),
}
parameters = pytest.mark.parametrize("name", PARAMETERS)


def start_of(problem: oracles.Problem, name: str) -> np.ndarray:
    field = np.array(getattr(problem, name.split()[0]), float)
    return field if name in ("reward", "terminal_reward", "temperature") else np.log(field)


@parameters
@readings
@pytest.mark.parametrize("discount", [1.0, 0.7])
@pytest.mark.parametrize("quantity", ["log_evidence", "policy"])
def test_gradient_of_every_factor(name: str, reading: str, discount: float, quantity: str) -> None:
    if quantity == "policy" and name.startswith("initial"):
        pytest.skip("no policy depends on the start")
    problem = oracles.random_problem(33, terminal_reward=True, discount=discount)
    edit, argument = PARAMETERS[name]
    start = start_of(problem, name)

    def by_oracle(x: np.ndarray) -> float:
        messages = oracles.backward(edit(problem, x), reading)
        return messages.log_evidence if quantity == "log_evidence" else float(np.log(messages.policy[0, 1, 0]))

    x = torch.tensor(start, requires_grad=True)
    posterior = infer(graph_of(problem, **argument(x)), reading)
    answer = posterior.log_evidence if quantity == "log_evidence" else posterior.policy(1, t=0).logits[0]
    (gradient,) = torch.autograd.grad(answer, x)
    assert_close(gradient, central_difference(by_oracle, start), 1e-7)


@readings
def test_gradient_with_terminals_and_forbidden_entries_is_finite(reading: str) -> None:
    options = {"num_states": 4, "num_actions": 3, "density": 0.4, "prior": "restricted", "num_terminal": 1}
    problem = oracles.random_problem(34, **options)
    tables = {
        k: torch.tensor(getattr(problem, k), requires_grad=True) for k in ("initial", "dynamics", "prior", "reward")
    }
    graph = graph_of(
        problem,
        initial=cai.factors.Categorical(probs=tables["initial"]),
        dynamics=cai.factors.TabularDynamics(tables["dynamics"], terminal=torch.as_tensor(problem.terminal)),
        action_prior=cai.factors.TabularPolicy(tables["prior"]),
        reward=cai.factors.TabularReward(tables["reward"]),
    )
    for gradient in torch.autograd.grad(infer(graph, reading).log_evidence, list(tables.values())):
        assert torch.isfinite(gradient).all()


@parameters
@pytest.mark.parametrize("num_terminal", [0, 1])
@pytest.mark.parametrize("reward", ["sa", "sas"])
def test_gradient_through_the_fixed_point(name: str, num_terminal: int, reward: str) -> None:
    """Infinite horizon: implicit differentiation against differences of an independent Newton solution."""
    if name == "terminal_reward" and not num_terminal:
        pytest.skip("without an end there is nothing to pay at it")
    problem = oracles.random_problem(
        35, num_states=4, horizon=None, discount=0.9, num_terminal=num_terminal, terminal_reward=True, reward=reward
    )
    edit, argument = PARAMETERS[name]
    start = start_of(problem, name)
    terminal = None if problem.terminal is None else torch.as_tensor(problem.terminal)
    if name == "dynamics":
        argument = lambda x: {"dynamics": cai.factors.TabularDynamics(torch.softmax(x, -1), terminal=terminal)}  # noqa: E731

    def by_oracle(x: np.ndarray) -> float:
        edited = edit(problem, x)
        return float(edited.initial @ oracles.solve_fixed(edited)[1]) / edited.temperature

    x = torch.tensor(start, requires_grad=True)
    posterior = cai.infer(graph_of(problem, **argument(x)), cai.SoftValueIteration(tolerance=1e-13))
    (gradient,) = torch.autograd.grad(posterior.log_evidence, x)
    assert_close(gradient, central_difference(by_oracle, start), 1e-6)


@pytest.mark.parametrize("method", [cai.SoftValueIteration, cai.SoftPolicyIteration])
@pytest.mark.parametrize("discount", [0.5, 0.99])
def test_envelope_without_horizon(method: type, discount: float) -> None:
    problem = oracles.random_problem(36, num_states=6, num_actions=3, horizon=None, reward="sa", discount=discount)
    values = torch.tensor(problem.reward, requires_grad=True)
    posterior = cai.infer(graph_of(problem, reward=cai.factors.TabularReward(values)), method())
    (gradient,) = torch.autograd.grad(problem.temperature * posterior.log_evidence, values)
    _, _, policy = oracles.solve_fixed(problem)
    assert_close(gradient, oracles.discounted_occupancy(problem, policy), 1e-8)
    assert_close(posterior.occupancy, oracles.discounted_occupancy(problem, policy), 1e-8)


def test_gradient_of_policy_evaluation_without_horizon() -> None:
    problem = oracles.random_problem(37, num_states=5, horizon=None, reward="sa", discount=0.95, num_terminal=1)
    policy = oracles.random_policy(problem, 38)
    values = torch.tensor(problem.reward, requires_grad=True)
    graph = graph_of(problem, reward=cai.factors.TabularReward(values))
    posterior = cai.infer(graph, cai.PolicyEvaluation(cai.factors.TabularPolicy(policy)))
    (gradient,) = torch.autograd.grad(problem.temperature * posterior.log_evidence, values)
    assert_close(gradient, oracles.discounted_occupancy(problem, policy), 1e-9)


def test_envelope_of_the_infinite_posterior() -> None:
    problem = oracles.random_problem(39, num_states=4, horizon=None, reward="sa", discount=0.9)
    problem = oracles.with_radius(problem, 0.8)
    start = problem.reward

    def by_oracle(x: np.ndarray) -> float:
        _, v = oracles.solve_posterior(problem.replace(reward=x))
        return problem.temperature * oracles.log_sum_exp(np.log(problem.initial) + v / problem.temperature)

    values = torch.tensor(start, requires_grad=True)
    posterior = cai.infer(graph_of(problem, reward=cai.factors.TabularReward(values)), cai.SumProduct())
    assert_close(problem.temperature * posterior.log_evidence, by_oracle(start))
    (gradient,) = torch.autograd.grad(problem.temperature * posterior.log_evidence, values)
    assert_close(gradient, central_difference(by_oracle, start), 1e-7)
    assert_close(posterior.occupancy, numpy_of(gradient), 1e-8)


@readings
def test_gradients_match_when_rewards_are_hundreds_of_temperatures_apart(reading: str) -> None:
    """Where Pyro's kernels clamp: the occupancy is still the derivative."""
    problem = oracles.random_problem(40, reward="sa", scale=300.0, temperature=1.0, per_step=("reward",))
    values = torch.tensor(problem.reward, requires_grad=True)
    posterior = infer(graph_of(problem, reward=cai.factors.TabularReward.per_step(values)), reading)
    (gradient,) = torch.autograd.grad(posterior.log_evidence, values)
    assert_close(gradient, pair_weights(problem, reading), 1e-9)


def weighted_sum(x: torch.Tensor) -> torch.Tensor:
    return (x.flatten() * torch.linspace(0, 1, x.numel(), dtype=x.dtype)).sum()


QUANTITIES: dict[str, Callable[[cai.Posterior], torch.Tensor]] = {
    "state_marginals": lambda x: weighted_sum(x.state_marginals),
    "state_action_marginals": lambda x: weighted_sum(x.state_action_marginals),
    "occupancy": lambda x: weighted_sum(x.occupancy),
    "expected_return": lambda x: x.expected_return,
    "entropy": lambda x: x.entropy,
    "q": lambda x: x.q(0, 1),
    "v": lambda x: x.v(1),
    "policy": lambda x: x.policy(1).probs[0],
}


@readings
@pytest.mark.parametrize("name", QUANTITIES)
@pytest.mark.parametrize("horizon, num_terminal", [(3, 0), (3, 1), (None, 0), (None, 1)])
@pytest.mark.parametrize("kind", ["sa", "sas"])
def test_everything_has_a_gradient(reading: str, name: str, horizon: int | None, num_terminal: int, kind: str) -> None:
    """Marginals, returns and entropies too, against slopes of the library's own (elsewhere tested) values."""
    options = {"num_states": 4, "discount": 0.8, "terminal_reward": True}
    problem = oracles.random_problem(29, horizon=horizon, num_terminal=num_terminal, reward=kind, **options)
    problem = problem if horizon else oracles.with_radius(problem, 0.6)

    def ask(x: torch.Tensor) -> torch.Tensor:
        return QUANTITIES[name](infer(graph_of(problem, reward=cai.factors.TabularReward(x)), reading))

    values = torch.tensor(problem.reward, requires_grad=True)
    (gradient,) = torch.autograd.grad(ask(values), values)
    assert gradient.abs().max() > 1e-4
    for direction in np.random.default_rng(28).normal(size=(2, *problem.reward.shape)):
        ahead, behind = (ask(torch.tensor(problem.reward + step * direction)) for step in (1e-5, -1e-5))
        slope = float(ahead - behind) / 2e-5
        assert_close((numpy_of(gradient) * direction).sum(), slope, 1e-7)
