"""The trajectory graph: what is checked when it is made, replaced and conditioned."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cai

F = cai.factors
P = np.full((3, 2, 3), 1 / 3)


def graph(**changes: Any) -> cai.TrajectoryGraph:
    parts = {
        "initial": F.Categorical([1.0, 0.0, 0.0]),
        "dynamics": F.TabularDynamics(P),
        "reward": F.TabularReward(np.zeros((3, 2))),
        "horizon": 4,
    }
    return cai.TrajectoryGraph(**(parts | changes))


BAD = {
    "horizon zero": ({"horizon": 0}, "horizon: expected a whole number of at least 1, or None for infinite, got 0"),
    "horizon fraction": ({"horizon": 2.5}, "horizon: .* got 2.5"),
    "horizon infinity": ({"horizon": math.inf}, "horizon: .* got inf"),
    "horizon nan": ({"horizon": math.nan}, "horizon: .* got nan"),
    "horizon text": ({"horizon": "4"}, "horizon: .*4"),
    "horizon list": ({"horizon": [4]}, "horizon: "),
    "horizon bool": ({"horizon": True}, "horizon: .* got True"),
    "discount": ({"discount": 1.5}, r"discount: expected a number in \[0, 1\], got 1.5"),
    "discount nan": ({"discount": math.nan}, "discount: .* got nan"),
    "discount none": ({"discount": None}, "discount: "),
    "discount text": ({"discount": "a"}, "discount: "),
    "temperature": ({"temperature": -1}, r"temperature: .* of at least 0 \(in reward units\), got -1"),
    "temperature infinity": ({"temperature": math.inf}, "temperature: .* got inf"),
    "temperature vector": ({"temperature": torch.ones(2)}, r"temperature: .* shape \[2\]"),
    "temperature none": ({"temperature": None}, "temperature: "),
    "temperature text": ({"temperature": "hot"}, "temperature: "),
    "initial size": ({"initial": F.Categorical([1.0])}, "initial: Categorical has 1 states, the dynamics 3"),
    "initial delta": ({"initial": F.Delta(3)}, "initial: Delta state 3 is outside 0..2"),
    "reward states": ({"reward": F.TabularReward(np.zeros(4))}, "reward: TabularReward is for 4 states, the dynamics"),
    "reward actions": (
        {"reward": F.TabularReward(np.zeros((3, 3)))},
        "reward: .* 3 states and 3 actions, the dynamics",
    ),
    "linear reward": ({"reward": F.LinearReward(np.zeros((4, 2)))}, "reward: LinearReward is for 4 states"),
    "reward steps": ({"reward": F.TabularReward.per_step(np.zeros((3, 3)))}, "reward: it is for 3 steps"),
    "dynamics steps": ({"dynamics": F.TabularDynamics.per_step([P] * 5)}, "dynamics: .* 5 steps, the horizon is 4"),
    "prior steps": (
        {"action_prior": F.TabularPolicy.per_step(np.full((2, 3, 2), 0.5))},
        "action_prior: it is for 2 steps",
    ),
    "steps without end": (
        {"dynamics": F.TabularDynamics.per_step([P] * 5), "horizon": None},
        "5 steps, the horizon is infinite",
    ),
    "prior size": ({"action_prior": F.TabularPolicy([[0.5, 0.5]])}, "action_prior: TabularPolicy is for 1 states"),
    "flat size": ({"action_prior": F.FlatPrior([[True, True]])}, r"action_prior: FlatPrior is for \[1, 2\]"),
    "terminal reward size": ({"terminal_reward": F.TabularReward([0.0])}, "terminal_reward: TabularReward is for 1"),
    "terminal reward of pairs": ({"terminal_reward": F.TabularReward(np.zeros((3, 2)))}, r"of states alone, \[S\]"),
    "terminal reward number": ({"terminal_reward": 5.0}, "terminal_reward: .* got float"),
    "terminal reward tensor": ({"terminal_reward": torch.ones(3)}, "terminal_reward: .* got Tensor"),
    "state space": ({"state_space": gymnasium.spaces.Discrete(4)}, r"state_space: the dynamics has .* Discrete\(4\)"),
    "state space from one": ({"state_space": gymnasium.spaces.Discrete(3, start=1)}, "state_space: the dynamics has"),
    "action space": ({"action_space": gymnasium.spaces.Box(0, 1)}, "action_space: the dynamics has"),
    "evidence time": ({"evidence": cai.Evidence({5: 0})}, "state at time 5"),
    "evidence value": ({"evidence": cai.Evidence(actions={0: 2})}, "action at time 0 2 is outside 0..1"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused_when_made_and_when_replaced(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph(**changes)
    with pytest.raises(ValueError, match=message):
        graph().replace(**changes)


def test_values_are_kept_as_plain_numbers() -> None:
    made = graph(horizon=np.int64(3), discount=np.float32(0.5), temperature=torch.tensor(0.0))
    assert (made.horizon, made.discount, made.temperature) == (3, 0.5, 0.0)
    assert type(made.horizon) is int
    assert type(made.discount) is float
    assert graph(horizon=3.0).horizon == 3
    learned = torch.tensor(0.5, requires_grad=True)
    assert graph(temperature=learned).temperature is learned


def test_positional_and_keyword_arguments() -> None:
    parts = F.Categorical([1.0, 0, 0]), F.TabularDynamics(P), F.TabularReward([0.0] * 3)
    assert cai.TrajectoryGraph(*parts).horizon is None
    with pytest.raises(TypeError):
        cai.TrajectoryGraph(*parts, 5)  # type: ignore[misc]


# -- spaces -----------------------------------------------------------------------------------------------------------


def test_spaces_are_inferred_and_kept() -> None:
    made = graph()
    assert made.state_space == gymnasium.spaces.Discrete(3)
    assert made.action_space == gymnasium.spaces.Discrete(2)
    grid = cai.GridSpace(1, 3, range(3), ())
    assert graph(state_space=grid).replace(temperature=0.1, dynamics=F.TabularDynamics(P)).state_space is grid


def test_spaces_follow_a_dynamics_of_another_size() -> None:
    larger = graph(state_space=cai.GridSpace(1, 3, range(3), ())).replace(
        initial=F.Delta(0), dynamics=F.TabularDynamics(np.full((4, 1, 4), 0.25)), reward=F.TabularReward([0.0] * 4)
    )
    assert (larger.state_space, larger.action_space) == (gymnasium.spaces.Discrete(4), gymnasium.spaces.Discrete(1))


def test_spaces_follow_an_environment() -> None:
    env = gymnasium.make("Pendulum-v1")
    live = F.Environment(env)
    replaced = graph().replace(initial=live, dynamics=live, reward=live)
    assert replaced.state_space is env.observation_space
    assert replaced.action_space is env.action_space
    assert replaced.replace(discount=0.5).action_space is env.action_space
    env.close()


# -- replace ----------------------------------------------------------------------------------------------------------


def test_replace_makes_a_copy() -> None:
    old = graph()
    new = old.replace(temperature=0.5)
    assert (old.temperature, new.temperature) == (1.0, 0.5)
    assert new.dynamics is old.dynamics
    with pytest.raises(AttributeError):
        old.temperature = 2.0  # type: ignore[misc]


def test_replace_of_an_unknown_part() -> None:
    with pytest.raises(ValueError, match="'temprature' is not a part of the graph; the parts are action_prior, "):
        graph().replace(temprature=1.0)


# -- evidence ---------------------------------------------------------------------------------------------------------

EVIDENCE = {
    "state after the end": ({"states": {5: 0}}, r"state at time 5; evidence on states is possible at 0..4"),
    "action at the end": ({"actions": {4: 0}}, r"action at time 4; evidence on actions is possible at 0..3"),
    "before the start": ({"states": {-1: 0}}, "state at time -1"),
    "fraction of time": ({"states": {1.5: 0}}, "state at time 1.5"),
    "state": ({"states": {1: 3}}, "state at time 1 3 is outside 0..2"),
    "fraction": ({"states": {1: 0.5}}, "state at time 1 must be whole numbers, got 0.5"),
    "several": ({"actions": {1: [0, 1]}}, r"action at time 1 must be one action, got shape \[2\]"),
}


@pytest.mark.parametrize("known, message", EVIDENCE.values(), ids=EVIDENCE)
def test_evidence_out_of_range(known: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph().condition(**known)


def test_contradicting_evidence() -> None:
    known = graph().condition(states={1: 2})
    assert known.condition(states={1: 2}).evidence == known.evidence
    with pytest.raises(ValueError, match="state at time 1 is known to be 2 already, not 0"):
        known.condition(states={1: 0})


def test_evidence_needs_tables_and_time() -> None:
    with pytest.raises(ValueError, match="needs a tabular dynamics"):
        graph(dynamics=None).condition(states={0: 0})
    endless = graph(horizon=None, discount=0.5)
    assert endless.condition(states={0: 0}).evidence.states == {0: 0}
    with pytest.raises(ValueError, match="infinite horizon"):
        endless.condition(actions={0: 0})


def test_evidence_of_many_types() -> None:
    known = graph().condition(states={np.int64(1): torch.tensor(2)}, actions={0: np.int64(1)})
    assert known.evidence == cai.Evidence({1: 2}, {0: 1})
    assert bool(known.evidence)
    assert not graph().evidence


@pytest.mark.parametrize("horizon", [2, None])
def test_evidence_does_not_outlive_its_horizon(horizon: int | None) -> None:
    with pytest.raises(ValueError, match="at time 3"):
        graph().condition(states={3: 1}).replace(horizon=horizon)


# -- callables and missing factors ------------------------------------------------------------------------------------


def test_callables_are_read_as_tables() -> None:
    table = np.arange(6.0).reshape(3, 2)
    plain = graph(reward=F.TabularReward(table), terminal_reward=F.TabularReward([0.0, 1.0, 2.0]))
    called = graph(
        initial=lambda: torch.distributions.Categorical(logits=torch.tensor([0.0, -math.inf, -math.inf])),
        reward=lambda s, a: 2.0 * s + a,
        terminal_reward=lambda s: 1.0 * s,
        action_prior=lambda s: torch.distributions.Categorical(probs=torch.full((*s.shape, 2), 0.5)),
    )
    of_triples = graph(reward=lambda s, a, s_next: 2.0 * s + a + 0.0 * s_next, terminal_reward=plain.terminal_reward)
    expected = cai.infer(plain, cai.SumProduct()).log_evidence
    for made in (called, of_triples):
        torch.testing.assert_close(cai.infer(made, cai.SumProduct()).log_evidence, expected)


UNREADABLE = {
    "initial": ({"initial": torch.ones(3)}, "initial: expected a distribution on 3 states .* got Tensor"),
    "initial of another size": (
        {"initial": lambda: torch.distributions.Categorical(probs=torch.ones(2))},
        "initial: expected a distribution on 3 states",
    ),
    "initial that is a policy": ({"initial": F.TabularPolicy(np.full((3, 2), 0.5))}, "initial: .* TabularPolicy"),
    "reward that is a policy": ({"reward": F.TabularPolicy(np.full((3, 2), 0.5))}, "reward: .* TabularPolicy"),
    "reward that is a prior": ({"reward": F.FlatPrior()}, "reward: .* got FlatPrior"),
    "reward": ({"reward": torch.ones(3, 2)}, "reward: expected a reward factor or a callable, got Tensor"),
    "reward of a wrong shape": ({"reward": lambda s, a: torch.ones(7)}, r"reward: .*\[3, 2\]"),
    "reward nan": ({"reward": lambda s, a: s * math.nan + a}, "state 0, action 0.* is nan"),
    "reward of triples nan": ({"reward": lambda s, a, n: s + a + n * math.nan}, "reward: .* not finite"),
    "prior": ({"action_prior": torch.ones(3, 2)}, r"action_prior: expected probabilities \[3, 2\] .* got Tensor"),
    "terminal reward": ({"terminal_reward": lambda s: torch.ones(2)}, r"terminal_reward: expected \[3\], got \[2\]"),
    "terminal reward nan": ({"terminal_reward": lambda s: s * math.nan}, "terminal_reward: "),
}


@pytest.mark.parametrize("changes, message", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_as_a_table_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.infer(graph(**changes), cai.SumProduct())


@pytest.mark.parametrize("form", ["unroll", "to_pyro"])
def test_what_cannot_be_written_out(form: str) -> None:
    for changes, message in (
        ({"horizon": None, "discount": 0.9}, f"{form}: needs a finite horizon"),
        ({"temperature": 0.0}, f"{form}: at temperature 0 the optimality has no density"),
        ({"dynamics": None}, f"{form}: .*dynamics.*NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(graph(**changes), form)()


def test_a_table_too_large_to_write_out() -> None:
    ring = np.arange(20_000)[:, None, None]
    large = graph(
        initial=F.Delta(0),
        dynamics=F.TabularDynamics.from_successors(ring, np.ones(ring.shape)),
        reward=F.TabularReward(np.zeros(20_000)),
    )
    with pytest.raises(ValueError, match=r"20000 states would hold 400,000,000 entries \(3.0 GiB\)"):
        large.unroll()
