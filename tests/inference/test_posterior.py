"""Reading a posterior: what it refuses, what it compares, what it saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from cai.inference.posterior import Posterior
from tests import oracles
from tests.laws.build import graph_of

F = cai.factors


def graph(**options: Any) -> cai.TrajectoryGraph:
    return graph_of(oracles.random_problem(4, **({"num_states": 4, "horizon": 3, "reward": "sa"} | options)))


def soft(asked: cai.TrajectoryGraph) -> cai.Posterior:
    return cai.infer(asked, cai.SoftValueIteration())


# -- reading ----------------------------------------------------------------------------------------------------------

READINGS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "state": (lambda p: p.v(4), "state 4 is outside 0..3"),
    "fraction": (lambda p: p.policy(0.5), "state must be whole numbers, got 0.5"),
    "text": (lambda p: p.v("a"), "state"),
    "none": (lambda p: p.v(None), "state"),
    "action": (lambda p: p.q(0, 2), "action 2 is outside 0..1"),
    "t": (lambda p: p.policy(0, t=3), "t must be within 0..2|t 3 is outside 0..2"),
    "t of v": (lambda p: p.v(0, t=4), "t must be within 0..3|t 4 is outside 0..3"),
    "t of advantage": (lambda p: p.advantage(0, 0, t=3), "t .*0..2"),
    "negative t": (lambda p: p.q(0, 0, t=-1), "t .*-1"),
    "fraction of t": (lambda p: p.v(0, t=0.5), "t must be whole numbers, got 0.5"),
    "t nan": (lambda p: p.v(0, t=float("nan")), "t must be whole numbers, got nan"),
    "t text": (lambda p: p.v(0, t="a"), "t"),
    "number": (lambda p: p.sample(0), "number of episodes must be .* at least 1, got 0"),
    "length": (lambda p: p.sample(1, length=4), r"length .*4"),
    "no length": (lambda p: p.sample(1, length=0), r"length .*0"),
    "half a length": (lambda p: p.sample(1, length=2.5), r"length .*2.5"),
}


@pytest.mark.parametrize("ask, message", READINGS.values(), ids=READINGS)
def test_what_cannot_be_read(ask: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(soft(graph()))


@pytest.mark.parametrize("length", [0, -3, 2.5])
def test_lengths_without_horizon(length: float) -> None:
    with pytest.raises(ValueError, match=f"length .*{length}"):
        soft(graph(horizon=None, discount=0.9)).sample(2, length=length)


def test_time_may_be_a_whole_float() -> None:
    posterior = soft(graph())
    assert torch.equal(posterior.v(0, t=np.float32(2.0)), posterior.v(0, t=2))


@pytest.mark.parametrize(
    "states", [[], torch.zeros(0, dtype=torch.int64), np.zeros((2, 0))], ids=["list", "torch", "2x0"]
)
def test_no_states_are_a_batch_too(states: Any) -> None:
    posterior, shape = soft(graph()), np.shape(states)
    assert posterior.v(states).shape == shape
    assert posterior.q(states, 0).shape == shape
    assert posterior.policy(states).probs.shape == (*shape, 2)


def test_temperature_zero_has_no_evidence() -> None:
    hard = soft(graph(temperature=0.0))
    with pytest.raises(cai.Unavailable, match="log_evidence is undefined at temperature 0"):
        _ = hard.log_evidence
    assert torch.isfinite(hard.expected_return)


def test_what_a_posterior_may_lack_says_so() -> None:
    class Bare(Posterior):
        def policy(self, state: Any, t: Any = 0) -> Any: ...

        def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Any: ...

    bare = Bare(graph(), cai.SumProduct(), cai.Stats())
    readings: dict[str, Callable[[], Any]] = {
        "q": lambda: bare.q(0, 0),
        "v": lambda: bare.v(0),
        "advantage": lambda: bare.advantage(0, 0),
        "log_prob": lambda: bare.log_prob(soft(graph()).sample(1)),
        "gap": lambda: bare.gap(bare),
    }
    names = (
        "log_evidence is_bound state_marginals state_action_marginals occupancy expected_return entropy "
        "most_probable_trajectory"
    )
    readings |= {name: lambda name=name: getattr(bare, name) for name in names.split()}
    for name, read in readings.items():
        with pytest.raises(cai.Unavailable, match=f"SumProduct gives no {name} on this graph"):
            read()


# -- log_prob ---------------------------------------------------------------------------------------------------------


def line() -> cai.TrajectoryGraph:
    """0 to 1 to the end, 2."""
    return cai.TrajectoryGraph(
        F.Delta(0),
        F.TabularDynamics(np.eye(3)[[1, 2, 2]][:, None, :], terminal=[False, False, True]),
        F.TabularReward([0.0, 0.0, 0.0]),
        horizon=4,
    )


@pytest.mark.parametrize("method", [cai.SumProduct(), cai.SoftValueIteration()], ids=["posterior", "fixed"])
def test_log_prob_of_what_can_and_cannot_happen(method: Any) -> None:
    posterior = cai.infer(line(), method)
    states = torch.tensor([[0, 1, 2, 2], [0, 1, 2, 2], [0, 1, 1, 1], [1, 2, 2, 2], [0, 1, 7, 7]])
    drawn = cai.Trajectories(states, torch.zeros(5, 3, dtype=torch.int64), lengths=[2, 3, 2, 1, 1])
    possible = [True, False, False, False, True]  # acts in the end; stays; starts elsewhere; cut off, padding unread
    assert posterior.log_prob(drawn).tolist() == [0.0 if yes else -torch.inf for yes in possible]


def test_log_prob_of_foreign_trajectories() -> None:
    posterior, actions = soft(graph()), torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="takes 4 actions, the horizon is 3"):
        posterior.log_prob(cai.Trajectories(torch.zeros(1, 5, dtype=torch.int64), actions))
    with pytest.raises(ValueError, match="9 is outside 0..3"):
        posterior.log_prob(cai.Trajectories(torch.tensor([[0, 9]]), actions[:, :1]))
    with pytest.raises(ValueError, match="action 5 is outside 0..1"):
        posterior.log_prob(cai.Trajectories(torch.tensor([[0, 1]]), actions[:, :1] + 5))
    with pytest.raises(ValueError, match="state"):
        posterior.log_prob(cai.Trajectories(torch.zeros(1, 2, 3), torch.zeros(1, 1, 2)))


# -- gap --------------------------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[dict, str]] = {
    "horizon": ({"horizon": 4}, "horizon 3 against 4"),
    "discount": ({"discount": 0.5}, "discount 1.0 against 0.5"),
    "temperature": ({"temperature": 9.0}, "temperature .* against 9.0"),
    "states": ({"num_states": 3}, "num_states 4 against 3"),
    "terminal": ({"num_terminal": 1}, "differ in their"),
    "terminal reward": ({"terminal_reward": True}, "differ in their"),
    "prior": ({"prior": "flat"}, "differ in their"),
}


@pytest.mark.parametrize("options, message", OTHERS.values(), ids=OTHERS)
def test_gap_needs_the_same_graph(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"gap: the graphs differ.*{message}|{message}"):
        soft(graph()).gap(soft(graph(**options)))


PARTS: dict[str, tuple[Callable[[cai.TrajectoryGraph], cai.TrajectoryGraph], str]] = {
    "initial": (lambda g: g.replace(initial=F.Delta(0)), "initial distribution"),
    "reward": (lambda g: g.replace(reward=F.TabularReward(np.zeros((4, 2)))), "reward"),
    "dynamics": (lambda g: g.replace(dynamics=F.TabularDynamics(np.full((4, 2, 4), 0.25))), "dynamics"),
    "terminal reward": (lambda g: g.replace(terminal_reward=F.TabularReward(np.ones(4))), "terminal reward"),
    "prior": (lambda g: g.replace(action_prior=F.FlatPrior()), "action prior"),
    "known action": (lambda g: g.condition(actions={1: 0}), "action prior|evidence"),
    "known state": (lambda g: g.condition(states={2: 0}), "evidence"),
}


@pytest.mark.parametrize("change, message", PARTS.values(), ids=PARTS)
def test_gap_names_the_part_that_differs(change: Callable, message: str) -> None:
    exact = cai.infer(graph(), cai.SumProduct())
    with pytest.raises(ValueError, match=f"gap: the graphs differ in their ({message})"):
        exact.gap(cai.infer(change(graph()), cai.SumProduct()))


def test_gap_looks_at_every_step() -> None:
    probs = graph().dynamics.dense()
    late = torch.stack([probs, probs, probs.flip(-1)])
    first, second = (
        soft(graph().replace(dynamics=F.TabularDynamics.per_step(tables)))
        for tables in (late[:1].expand_as(late), late)
    )
    with pytest.raises(ValueError, match="gap: the graphs differ in their dynamics at time 2"):
        first.gap(second)


def test_gap_with_something_else() -> None:
    with pytest.raises(ValueError, match="the other posterior is a NoneType"):
        soft(graph()).gap(None)  # type: ignore[arg-type]
    hard = soft(graph(temperature=0.0))
    with pytest.raises(cai.Unavailable, match="temperature 0"):
        hard.gap(hard)


def test_gap_of_a_graph_held_dense_and_one_held_sparse() -> None:
    matrix = scipy.sparse.csr_matrix(graph().dynamics.dense().flatten(0, 1).numpy())
    other = soft(graph().replace(dynamics=F.TabularDynamics(matrix)))
    with pytest.raises(ValueError, match="one graph holds its dynamics dense, the other sparse"):
        soft(graph()).gap(other)


def test_gap_to_itself_is_zero() -> None:
    posterior = soft(graph())
    gap = posterior.gap(posterior)
    assert (float(gap.evidence_gap), float(gap.kl), float(gap.reverse_kl)) == (0.0, 0.0, 0.0)


# -- files ------------------------------------------------------------------------------------------------------------


def called() -> cai.TrajectoryGraph:
    return graph().replace(reward=lambda state, action: 1.0 * state - action)


def test_callables_are_holes_filled_from_the_graph(tmp_path: Path) -> None:
    posterior = soft(called())
    posterior.save(tmp_path / "file")
    with pytest.raises(ValueError, match="was saved without its reward; give graph= with one"):
        cai.load(tmp_path / "file")
    with pytest.raises(ValueError, match="saved without its reward"):
        cai.load(tmp_path / "file", graph=called().replace(reward=None))
    again = cai.load(tmp_path / "file", graph=called())
    assert torch.equal(again.v(torch.arange(4)), posterior.v(torch.arange(4)))
    assert torch.equal(again.expected_return, posterior.expected_return)
    assert float(again.graph.reward(torch.tensor(2), torch.tensor(1))) == 1.0


def test_evaluated_callable_is_kept_as_a_table(tmp_path: Path) -> None:
    policy = cai.PolicyEvaluation(lambda s, t: torch.distributions.Categorical(probs=torch.eye(2)[s % 2]))
    posterior = cai.infer(graph(), policy)
    posterior.save(tmp_path / "file")
    again = cai.load(tmp_path / "file")
    assert torch.equal(again.policy(torch.arange(4)).probs, torch.eye(2).double()[[0, 1, 0, 1]])
    assert torch.equal(again.log_evidence, posterior.log_evidence)


def test_evidence_and_spaces_come_back(tmp_path: Path) -> None:
    asked = graph().replace(state_space=cai.GridSpace(2, 2, range(4), ())).condition(states={2: 1}, actions={0: 0})
    posterior = cai.infer(asked, cai.SumProduct())
    posterior.save(tmp_path / "file")
    again = cai.load(tmp_path / "file")
    assert again.graph.evidence == asked.evidence
    assert isinstance(again.graph.state_space, cai.GridSpace)
    assert torch.equal(again.state_marginals, posterior.state_marginals)


def test_learned_tables_can_be_saved(tmp_path: Path) -> None:
    values = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    posterior = soft(graph().replace(reward=F.TabularReward(values)))
    assert posterior.v(0).requires_grad
    posterior.save(tmp_path / "file")
    again = cai.load(tmp_path / "file")
    assert again.graph.reward.values.requires_grad
    assert torch.equal(again.v(0).detach(), posterior.v(0).detach())


@pytest.mark.parametrize("method", [cai.SoftPolicyIteration(max_steps=np.int64(50), tolerance=np.float32(1e-6))])
def test_settings_that_are_numpy_scalars_can_be_saved(method: Any, tmp_path: Path) -> None:
    cai.infer(graph(horizon=None, discount=0.9), method).save(tmp_path / "file")
    again = cai.load(tmp_path / "file").method
    assert (again.max_steps, again.tolerance) == (50, float(np.float32(1e-6)))
