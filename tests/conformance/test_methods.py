"""Every exact method on every kind of graph that it accepts: the promises that all posteriors make.

A new method joins with a line in `METHODS`, a new kind of graph with a line in `GRAPHS`. Nothing here knows the right
answer; the laws do. Sampling tests use Bernstein's inequality at a failure probability of 1e-9 an entry, so any seed
passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, numpy_of, policy_of, tables_of

Make = Callable[[], cai.TrajectoryGraph]


def random_graph(seed: int, **options: object) -> Make:
    return lambda: graph_of(oracles.random_problem(seed, **options))


def sparse_graph() -> cai.TrajectoryGraph:
    problem = oracles.random_problem(205, num_states=9, density=0.2, horizon=6, num_terminal=1, reward="sa")
    table = scipy.sparse.csr_matrix(problem.dynamics.reshape(-1, 9))
    dynamics = cai.factors.TabularDynamics(table, terminal=torch.as_tensor(problem.terminal))
    return graph_of(problem, dynamics=dynamics)


def single_graph() -> cai.TrajectoryGraph:
    problem = oracles.random_problem(206, num_states=4, reward="sa")
    return graph_of(
        problem,
        initial=cai.factors.Categorical(probs=problem.initial, dtype=torch.float32),
        dynamics=cai.factors.TabularDynamics(problem.dynamics, dtype=torch.float32),
        reward=cai.factors.TabularReward(problem.reward, dtype=torch.float32),
        action_prior=cai.factors.TabularPolicy(problem.prior, dtype=torch.float32),
    )


def infinite(seed: int, target: float | None = None, **options: object) -> Make:
    problem = oracles.random_problem(seed, **({"horizon": None, "num_states": 5, "discount": 0.8} | options))
    return lambda: graph_of(problem if target is None else oracles.with_radius(problem, target))


PER_STEP = ("dynamics", "reward", "prior")
GRAPHS: dict[str, Make] = {
    "plain": random_graph(201, horizon=4),
    "terminal": random_graph(202, num_terminal=1, terminal_reward=True, density=0.5, num_states=5, horizon=5),
    "per step": random_graph(203, per_step=PER_STEP, prior="restricted", num_actions=3),
    "flat": random_graph(204, prior="flat-available", num_actions=3),
    "sparse": sparse_graph,
    "float32": single_graph,
    "discount": random_graph(207, discount=0.8, num_terminal=1),
    "action evidence": lambda: random_graph(208)().condition(actions={1: 0}),
    "frozen lake": lambda: cai.from_gym("FrozenLake-v1", horizon=20, temperature=0.1),
    "infinite": infinite(209),
    "infinite terminal": infinite(210, num_terminal=1, terminal_reward=True),
    "infinite posterior": infinite(211, target=0.7),
    "first exit": infinite(212, target=0.9, num_terminal=1, discount=1.0),
    "frozen lake first exit": lambda: cai.from_gym("FrozenLake-v1", temperature=1.0),
    "model inventory": lambda: cai.load_model("inventory"),
    "model risky_branch": lambda: cai.load_model("risky_branch"),
    "model two_state": lambda: cai.load_model("two_state"),
    "model gridworld": lambda: cai.load_model("gridworld"),
    "model random_walk": lambda: cai.load_model("random_walk"),
}
SUMMABLE = ("infinite posterior", "first exit", "frozen lake first exit", "model gridworld", "model random_walk")
ENDLESS = ("infinite", "infinite terminal", *SUMMABLE)
FINITE = tuple(name for name in GRAPHS if name not in ENDLESS)
UNKNOWING = tuple(name for name in FINITE if "evidence" not in name)


def some_policy(graph: cai.TrajectoryGraph) -> cai.factors.TabularPolicy:
    """A random policy inside the support of the prior, answering for every step."""
    soft = tables_of(cai.infer(graph, cai.SoftValueIteration())).policy
    weights = (soft > 0) * np.random.default_rng(0).uniform(0.2, 1, soft.shape)
    return policy_of(weights / weights.sum(-1, keepdims=True))


@dataclass(frozen=True)
class Entry:
    """A method, the graphs it accepts, and which kind of posterior it is."""

    make: Callable[[cai.TrajectoryGraph], cai.AbstractMethod]
    graphs: tuple[str, ...]
    bound: bool
    soft: bool = False
    fixed: bool = True
    skip: tuple[str, ...] = field(default=())


SCAN = cai.methods.AssociativeScan()
METHODS = {
    "SumProduct": Entry(lambda _: cai.SumProduct(), FINITE + SUMMABLE, bound=False, soft=True, fixed=False),
    "SoftValueIteration": Entry(lambda _: cai.SoftValueIteration(), FINITE + ENDLESS, bound=True, soft=True),
    "SoftPolicyIteration": Entry(lambda _: cai.SoftPolicyIteration(), FINITE + ENDLESS, bound=True, soft=True),
    "PolicyEvaluation": Entry(lambda g: cai.PolicyEvaluation(some_policy(g)), UNKNOWING + ENDLESS, bound=True),
    "RiskSensitiveControl": Entry(
        lambda _: cai.RiskSensitiveControl(-0.2), FINITE + ENDLESS, bound=True, soft=True, fixed=False
    ),
    "MaxProduct": Entry(
        lambda _: cai.MaxProduct(), tuple(x for x in FINITE if x != "discount"), bound=True, fixed=False
    ),
    "SumProduct by scans": Entry(lambda _: cai.SumProduct(schedule=SCAN), FINITE, bound=False, soft=True, fixed=False),
    "PolicyEvaluation by scans": Entry(
        lambda g: cai.PolicyEvaluation(some_policy(g), schedule=SCAN), UNKNOWING, bound=True
    ),
    "MaxProduct by scans": Entry(
        lambda _: cai.MaxProduct(schedule=SCAN), tuple(x for x in FINITE if x != "discount"), bound=True, fixed=False
    ),
}
PAIRS = [(method, graph) for method, entry in METHODS.items() for graph in entry.graphs]
LIVELY = [pair for pair in PAIRS if not pair[0].startswith("MaxProduct")]
ids = [f"{method} on {graph}" for method, graph in PAIRS]
pairs = pytest.mark.parametrize("method, name", PAIRS, ids=ids)
lively_pairs = pytest.mark.parametrize("method, name", LIVELY, ids=[f"{m} on {g}" for m, g in LIVELY])

_ANSWERS: dict[tuple[str, str], cai.Posterior] = {}


def answer(method: str, name: str) -> cai.Posterior:
    """The posterior of a pair, inferred once."""
    if (method, name) not in _ANSWERS:
        graph = GRAPHS[name]()
        _ANSWERS[method, name] = cai.infer(graph, METHODS[method].make(graph))
    return _ANSWERS[method, name]


def precision(posterior: cai.Posterior) -> float:
    return 1e-4 if posterior.log_evidence.dtype == torch.float32 else 1e-8


def sizes(posterior: cai.Posterior) -> tuple[int, int, int | None]:
    return posterior.graph.state_space.n, posterior.graph.action_space.n, posterior.graph.horizon


@pairs
def test_members(method: str, name: str) -> None:
    posterior = answer(method, name)
    num_states, num_actions, horizon = sizes(posterior)
    assert posterior.log_evidence.shape == ()
    assert posterior.is_bound is METHODS[method].bound
    assert isinstance(posterior.graph, cai.TrajectoryGraph)
    assert posterior.stats.converged
    assert posterior.stats.seconds >= 0
    lead = () if horizon is None else (horizon + 1,)
    pairs_lead = () if horizon is None else (horizon,)
    assert posterior.state_marginals.shape == (*lead, num_states)
    assert posterior.state_action_marginals.shape == (*pairs_lead, num_states, num_actions)
    assert posterior.occupancy.shape == (*pairs_lead, num_states, num_actions)
    assert posterior.expected_return.shape == ()
    assert posterior.entropy.shape == ()
    for number in (posterior.log_evidence, posterior.expected_return, posterior.entropy):
        assert torch.isfinite(number)


@lively_pairs
def test_tables_belong_together(method: str, name: str) -> None:
    posterior, entry = answer(method, name), METHODS[method]
    tables, tolerance = tables_of(posterior), precision(posterior)
    assert (tables.policy >= 0).all()
    assert_close(tables.policy.sum(-1), 1.0, tolerance)
    horizon = posterior.graph.horizon
    v = tables.v if horizon is None else tables.v[:-1]
    now = slice(None) if horizon is None else 0
    states, actions = torch.arange(v.shape[-1])[:, None], torch.arange(tables.q.shape[-1])
    assert_close(posterior.advantage(states, actions), tables.q[now] - v[now][..., None], tolerance)
    if entry.soft:
        alpha = posterior.graph.temperature
        log_mu = prior_of(posterior)
        with np.errstate(divide="ignore"):
            x = log_mu + tables.q / float(alpha)
        top = x.max(-1)
        soft = float(alpha) * (top + np.log(np.exp(x - top[..., None]).sum(-1)))
        alive = ~terminal_of(posterior)
        if "evidence" not in name:
            assert_close(v[..., alive], soft[..., alive], tolerance)
        else:
            assert_close(v[0][alive], soft[0][alive], tolerance)


def prior_of(posterior: cai.Posterior) -> np.ndarray:
    """Log mu, `[S, A]` or `[T, S, A]`."""
    graph = posterior.graph
    num_states, num_actions, horizon = sizes(posterior)
    if graph.action_prior is None:
        return np.full((num_states, num_actions), -math.log(num_actions))
    table = numpy_of(graph.action_prior.prior_table(num_states, num_actions)).astype(float)
    with np.errstate(divide="ignore"):
        return np.log(table[0] if horizon is None else table)


def terminal_of(posterior: cai.Posterior) -> np.ndarray:
    mask = getattr(posterior.graph.dynamics, "terminal_mask", None)
    return np.zeros(sizes(posterior)[0], bool) if mask is None else numpy_of(mask).astype(bool)


@pairs
def test_marginals_belong_together(method: str, name: str) -> None:
    posterior = answer(method, name)
    tolerance, horizon, alive = precision(posterior), posterior.graph.horizon, ~terminal_of(posterior)
    states, joint = numpy_of(posterior.state_marginals), numpy_of(posterior.state_action_marginals)
    assert (states >= -1e-15).all()
    assert (joint >= -1e-15).all()
    assert (joint[..., ~alive, :] == 0).all()
    discount = float(posterior.graph.discount)
    mortal = not METHODS[method].fixed and discount < 1
    if not mortal:
        assert_close(states.sum(-1), 1.0, tolerance)
    if horizon is not None:
        assert_close(joint.sum(-1)[:, alive], states[:-1][:, alive], tolerance)
        weights = 1.0 if not METHODS[method].fixed else discount ** np.arange(horizon)[:, None, None]
        assert_close(posterior.occupancy, weights * joint, tolerance)
    elif discount < 1 and not mortal:
        assert_close(joint.sum(-1)[alive], states[alive], tolerance)
        assert_close((1 - discount) * numpy_of(posterior.occupancy), joint, tolerance)


@lively_pairs
def test_policy_is_the_conditional_of_the_marginals(method: str, name: str) -> None:
    posterior = answer(method, name)
    joint = numpy_of(posterior.state_action_marginals).astype(float)
    if posterior.graph.discount == 1 and posterior.graph.horizon is None:
        joint = numpy_of(posterior.occupancy)
    mass = joint.sum(-1, keepdims=True)
    met = mass[..., 0] > 1e-3
    assert met.any()
    assert_close((joint[met] / mass[met]), tables_of(posterior).policy[met], 100 * precision(posterior))


# -- sampling ---------------------------------------------------------------------------------------------------------

NUM = 4000


def draw(posterior: cai.Posterior, num: int = NUM, seed: int = 0) -> cai.Trajectories:
    return posterior.sample(num, seed=seed, length=60 if posterior.graph.horizon is None else None)


def bernstein(p: np.ndarray, num: int) -> np.ndarray:
    """Deviation of a mean of `num` Bernoulli draws that is exceeded with probability below 1e-9."""
    log_odds = math.log(2 / 1e-9)
    return np.sqrt(2 * p * (1 - p) * log_odds / num) + 2 * log_odds / (3 * num)


@pairs
def test_samples_are_well_formed(method: str, name: str) -> None:
    posterior = answer(method, name)
    num_states, num_actions, horizon = sizes(posterior)
    batch = draw(posterior, 50)
    length = horizon or 60
    assert batch.states.shape == (50, length + 1)
    assert batch.actions.shape == batch.rewards.shape == (50, length)
    visited, taken = batch.states[batch.state_mask], batch.actions[batch.mask]
    assert ((visited >= 0) & (visited < num_states)).all()
    assert ((taken >= 0) & (taken < num_actions)).all()
    assert not (batch.terminated & batch.truncated).any()
    last = numpy_of(batch.states)[np.arange(50), numpy_of(batch.lengths)]
    ended = terminal_of(posterior)[last]
    mortal = not METHODS[method].fixed and posterior.graph.discount < 1
    if not mortal:
        assert (ended == numpy_of(batch.terminated)).all()
        assert (numpy_of(batch.lengths)[~ended] == length).all()
    inside = numpy_of(batch.states)[:, :-1][numpy_of(batch.mask)]
    assert not terminal_of(posterior)[inside].any(), "no action is taken in a terminal state"
    assert torch.isfinite(batch.rewards[batch.mask]).all()


@pairs
def test_samples_have_finite_probability(method: str, name: str) -> None:
    posterior = answer(method, name)
    batch = draw(posterior, 50)
    log_prob = posterior.log_prob(batch)
    assert log_prob.shape == (50,)
    assert torch.isfinite(log_prob).all()
    assert (log_prob <= 1e-6).all()


@pairs
def test_same_seed_same_samples_and_the_global_generator_is_left_alone(method: str, name: str) -> None:
    posterior = answer(method, name)
    torch.manual_seed(5)
    np.random.seed(5)
    before, before_numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first, second = draw(posterior, 40, seed=3), draw(posterior, 40, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(before_numpy, np.random.get_state()[1])
    for member in ("states", "actions", "rewards", "lengths", "terminated", "truncated"):
        assert torch.equal(getattr(first, member), getattr(second, member)), member
    if not method.startswith("MaxProduct"):
        assert not torch.equal(first.actions, draw(posterior, 40, seed=4).actions)


@lively_pairs
def test_sample_frequencies_are_the_marginals(method: str, name: str) -> None:
    posterior = answer(method, name)
    num_states, num_actions, horizon = sizes(posterior)
    if horizon is None and not METHODS[method].fixed:
        pytest.skip(
            "marginals of single steps are not part of an infinite answer; laws/test_infinite.py looks at the sum"
        )
    batch = draw(posterior)
    states, actions, mask = numpy_of(batch.states), numpy_of(batch.actions), numpy_of(batch.mask)
    joint = first_steps(posterior, 3) if horizon is None else numpy_of(posterior.state_action_marginals)
    for t in range(len(joint)):
        counts = np.zeros((num_states, num_actions))
        np.add.at(counts, (states[mask[:, t], t], actions[mask[:, t], t]), 1)
        assert (np.abs(counts / NUM - joint[t]) <= bernstein(np.clip(joint[t], 0, 1), NUM) + 1e-6).all()


def first_steps(posterior: cai.Posterior, num: int) -> list[np.ndarray]:
    """p(s_t, a_t) of the first steps of a stationary policy under the true dynamics."""
    num_states, _, _ = sizes(posterior)
    policy, alive = tables_of(posterior).policy, ~terminal_of(posterior)
    dynamics = numpy_of(posterior.graph.dynamics.dense()).reshape(num_states, -1, num_states)
    state, joint = numpy_of(posterior.graph.initial.initial_table(num_states)), []
    for _ in range(num):
        joint.append((state * alive)[:, None] * policy)
        state = np.einsum("sa,saj->j", joint[-1], dynamics)
    return joint


@lively_pairs
def test_mean_return_is_the_expected_return(method: str, name: str) -> None:
    posterior = answer(method, name)
    if posterior.graph.horizon is None or posterior.graph.terminal_reward is not None:
        pytest.skip("sampled rewards hold neither what lies beyond the length nor the terminal reward")
    discount = posterior.graph.discount if METHODS[method].fixed else 1.0
    returns = numpy_of(draw(posterior).returns(discount)).astype(float)
    error = abs(returns.mean() - float(posterior.expected_return))
    assert error <= 6 * returns.std() / math.sqrt(NUM) + 1e-6


# -- files ------------------------------------------------------------------------------------------------------------


@pairs
def test_save_and_load(method: str, name: str, tmp_path: Path) -> None:
    posterior = answer(method, name)
    posterior.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    for member in (
        "log_evidence",
        "state_marginals",
        "state_action_marginals",
        "occupancy",
        "expected_return",
        "entropy",
    ):
        assert torch.equal(getattr(again, member), getattr(posterior, member)), member
    assert again.is_bound == posterior.is_bound
    assert type(again.method) is type(posterior.method)
    assert again.stats.certified_error == posterior.stats.certified_error
    first, second = draw(posterior, 20), draw(again, 20)
    assert torch.equal(first.states, second.states)
    assert torch.equal(first.actions, second.actions)
    if not method.startswith("MaxProduct"):
        old, new = tables_of(posterior), tables_of(again)
        for member in ("q", "v", "policy"):
            np.testing.assert_array_equal(getattr(old, member), getattr(new, member))
    assert torch.equal(again.log_prob(first), posterior.log_prob(first))


# -- arguments --------------------------------------------------------------------------------------------------------


@lively_pairs
def test_states_of_every_kind(method: str, name: str) -> None:
    posterior = answer(method, name)
    one = posterior.policy(1).probs
    for state in (
        np.int64(1),
        np.float32(1.0),
        torch.tensor(1),
        torch.tensor(1.0),
        torch.tensor(1.0, dtype=torch.float64),
        np.array(1),
        torch.tensor(1, dtype=torch.int32),
    ):
        assert torch.equal(posterior.policy(state).probs, one)
        assert torch.equal(posterior.v(state), posterior.v(1))
        assert torch.equal(posterior.q(state, 0), posterior.q(1, 0))
    batch = [[0, 1], [1, 0]]
    for states in (np.array(batch), torch.tensor(batch), torch.tensor(batch, dtype=torch.float32)):
        assert posterior.policy(states).probs.shape == (2, 2, sizes(posterior)[1])
        assert posterior.policy(states).sample().shape == (2, 2)
        assert posterior.v(states).shape == (2, 2)
        assert posterior.q(states, 0).shape == (2, 2)
        assert torch.equal(posterior.policy(states).probs[0, 1], one)


@lively_pairs
def test_state_action_and_time_broadcast(method: str, name: str) -> None:
    posterior = answer(method, name)
    num_states, num_actions, horizon = sizes(posterior)
    states, actions = torch.arange(num_states), torch.arange(num_actions)
    assert posterior.q(states[:, None], actions).shape == (num_states, num_actions)
    if horizon is None:
        return
    times = torch.arange(horizon)
    q = posterior.q(states[:, None], actions, t=times[:, None, None])
    assert q.shape == (len(times), num_states, num_actions)
    for t in range(len(times)):
        assert torch.equal(q[t], posterior.q(states[:, None], actions, t=t))
    assert posterior.v(states, t=times[:, None]).shape == (len(times), num_states)
    assert posterior.policy(states, t=times[:, None]).probs.shape == (len(times), num_states, num_actions)


@lively_pairs
@pytest.mark.parametrize("bad", [-1, 10_000, 0.5, float("nan"), [0, -1]])
def test_bad_states_are_refused(method: str, name: str, bad: object) -> None:
    posterior = answer(method, name)
    for ask in (posterior.policy, posterior.v, lambda s: posterior.q(s, 0), lambda s: posterior.q(0, s)):
        with pytest.raises(ValueError):
            ask(torch.as_tensor(bad))


@pytest.mark.parametrize("method, name", [x for x in LIVELY if x[1] in FINITE])
def test_bad_times_are_refused(method: str, name: str) -> None:
    posterior = answer(method, name)
    horizon = posterior.graph.horizon
    posterior.v(0, t=horizon)
    for t in (-1, horizon, horizon + 1):
        with pytest.raises(ValueError):
            posterior.policy(0, t=t)
        with pytest.raises(ValueError):
            posterior.q(0, 0, t=t)
    for t in (-1, horizon + 1):
        with pytest.raises(ValueError):
            posterior.v(0, t=t)


@lively_pairs
def test_what_is_missing_says_so(method: str, name: str) -> None:
    with pytest.raises(cai.Unavailable):
        _ = answer(method, name).most_probable_trajectory


@pytest.mark.parametrize("name", ["infinite", "infinite terminal"])
def test_an_endless_graph_needs_a_length(name: str) -> None:
    posterior = answer("SoftValueIteration", name)
    if not terminal_of(posterior).any():
        with pytest.raises(ValueError):
            posterior.sample(5, seed=0)


@pairs
def test_asking_twice_gives_the_same(method: str, name: str) -> None:
    posterior, graph = answer(method, name), GRAPHS[name]()
    again = cai.infer(graph, METHODS[method].make(graph), seed=1)
    assert torch.equal(again.log_evidence, posterior.log_evidence)
    assert torch.equal(again.state_action_marginals, posterior.state_action_marginals)


REFUSED = [("MaxProduct", name) for name in (*ENDLESS, "discount")] + [("PolicyEvaluation", "action evidence")]


@pytest.mark.parametrize("method, name", REFUSED, ids=[f"{m} on {g}" for m, g in REFUSED])
def test_other_graphs_are_refused_with_advice(method: str, name: str) -> None:
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(GRAPHS[name](), METHODS[method].make(GRAPHS[name]()))


@lively_pairs
def test_rollout_follows_the_posteriors_policy(method: str, name: str) -> None:
    posterior = answer(method, name)
    length = 10 if posterior.graph.horizon is None else None
    batch = cai.rollout(posterior.graph, posterior, 30, seed=0, length=length)
    assert len(batch) == 30
    inside = numpy_of(batch.mask)
    policy = tables_of(posterior).policy
    states, actions = numpy_of(batch.states)[:, :-1], numpy_of(batch.actions)
    times = np.broadcast_to(np.arange(states.shape[1]), states.shape)
    taken = policy[states, actions] if posterior.graph.horizon is None else policy[times, states, actions]
    assert (taken[inside] > 0).all()
