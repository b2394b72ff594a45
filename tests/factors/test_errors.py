"""Every constructor says which factor, what was expected, what came, and where first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import scipy.sparse
import torch

import cai

F = cai.factors
P = np.full((3, 2, 3), 1 / 3)


def changed(table: Any, index: tuple, value: float) -> np.ndarray:
    table = np.array(table, dtype=float)
    table[index] = value
    return table


def sparse(table: np.ndarray) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(table.reshape(-1, table.shape[-1]))


DYNAMICS = {
    "two dimensions": (np.eye(3), r"TabularDynamics: a dense table must be \[S, A, S\], got \[3, 3\]"),
    "not square": (np.ones((3, 2, 4)) / 4, r"got \[3, 2, 4\]"),
    "empty": (np.ones((0, 2, 0)), r"got \[0, 2, 0\]"),
    "row sum": (changed(P, (1, 0, 2), 0.25), r"dynamics row \(state 1, action 0\) sums to 0.916667, not 1 \(off by -0"),
    "just too much": (changed(P, (2, 1, 0), 1 / 3 + 2e-6), r"state 2, action 1\) sums to 1, not 1 \(off by \+2e-06"),
    "negative": (changed(P, (2, 1, 1), -0.5), r"dynamics row \(state 2, action 1\) has a negative probability -0.5"),
    "nan": (changed(P, (0, 1, 2), np.nan), r"dynamics: \(state 0, action 1, .* 2\) is nan"),
    "inf": (changed(P, (0, 1, 2), np.inf), r"dynamics: \(state 0, action 1, .* 2\) is inf"),
    "sparse shape": (scipy.sparse.csr_matrix(np.ones((4, 3))), r"\[S \* A, S\], got \[4, 3\]"),
    "sparse row sum": (sparse(changed(P, (1, 0, 2), 0.0)), r"dynamics row \(state 1, action 0\) sums to 0.666667"),
    "sparse empty row": (sparse(changed(P, (1, 1), 0.0)), r"dynamics row \(state 1, action 1\) sums to 0, not 1"),
    "sparse negative": (
        sparse(changed(changed(P, (0, 1, 1), -0.5), (2, 1, 1), -0.75)),
        r"\(state 0, action 1\) has a negative probability -0.5",
    ),
    "sparse nan": (sparse(changed(P, (1, 1, 0), np.nan)), r"state 1, action 1.* nan"),
    "sparse of one dimension": (torch.ones(3).to_sparse(), r"two dimensions, got \[3\]"),
    "text": ("hello", r"TabularDynamics probs: cannot be read as an array of numbers"),
    "none": (None, r"TabularDynamics probs: cannot be read"),
    "ragged": ([[1.0], [1.0, 2.0]], r"TabularDynamics probs: cannot be read"),
    "complex": (P * 1j, r"TabularDynamics probs: cannot be read .*complex"),
}


@pytest.mark.parametrize("probs, message", DYNAMICS.values(), ids=DYNAMICS)
def test_dynamics(probs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.TabularDynamics(probs)


def test_rows_of_terminal_states_need_not_be_distributions() -> None:
    for table in (changed(P, (1, 0), 0.0), sparse(changed(P, (1,), 0.0))):
        assert F.TabularDynamics(table, terminal=[False, True, False]).num_states == 3


@pytest.mark.parametrize("terminal", [[0, 1, 0], [True, False], np.zeros((3, 1), bool), 2])
def test_terminal_mask(terminal: Any) -> None:
    with pytest.raises(ValueError, match=r"TabularDynamics: terminal must be a boolean mask \[3\], got"):
        F.TabularDynamics(P, terminal=terminal)


def test_dynamics_per_step() -> None:
    with pytest.raises(ValueError, match=r"dynamics at time 1 row \(state 0, action 1\) sums to"):
        F.TabularDynamics.per_step([P, changed(P, (0, 1, 0), 0.0)])
    with pytest.raises(ValueError, match=r"dynamics at time 1: 2 states and 2 actions, the first table has 3 and 2"):
        F.TabularDynamics.per_step([P, np.full((2, 2, 2), 0.5)])
    with pytest.raises(ValueError, match=r"TabularDynamics at time 0: a dense table must be \[S, A, S\], got \[2, 3\]"):
        F.TabularDynamics.per_step(P)
    with pytest.raises(ValueError, match="no tables given"):
        F.TabularDynamics.per_step([])


SUCCESSORS = {
    "dimensions": (np.zeros((3, 2)), np.ones((3, 2)), r"probs must be \[S, A, K\], got \[3, 2\]"),
    "shapes": (np.zeros((3, 2, 1)), np.ones((3, 2, 2)), r"next_states must be \[3, 2, 2\] as probs, got \[3, 2, 1\]"),
    "outside": (np.full((3, 2, 1), 3), np.ones((3, 2, 1)), r"\(state 0, action 0\): next state 3 is outside 0..2"),
    "fraction": (np.full((3, 2, 1), 0.5), np.ones((3, 2, 1)), r"next state must be whole numbers, got 0.5"),
    "nan": (
        np.zeros((3, 2, 1)),
        changed(np.ones((3, 2, 1)), (2, 0, 0), np.nan),
        r"dynamics row \(state 2, action 0\) holds nan",
    ),
    "row sum": (np.zeros((3, 2, 1)), np.full((3, 2, 1), 0.5), r"\(state 0, action 0\) sums to 0.5"),
    "no successors": (np.zeros((3, 2, 0)), np.zeros((3, 2, 0)), r"\[3, 2, 0\]"),
    "no states": (np.zeros((0, 2, 1)), np.zeros((0, 2, 1)), r"\[0, 2, 1\]"),
    "no actions": (np.zeros((3, 0, 1)), np.zeros((3, 0, 1)), r"\[3, 0, 1\]"),
}


@pytest.mark.parametrize("next_states, probs, message", SUCCESSORS.values(), ids=SUCCESSORS)
def test_successors(next_states: Any, probs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.TabularDynamics.from_successors(next_states, probs)


REWARD = {
    "scalar": (1.0, r"TabularReward: expected \[S\], \[S, A\], \[S, A, S\] or sparse \[S \* A, S\], got \[\]"),
    "four dimensions": (np.zeros((2, 3, 2, 3)), r"got \[2, 3, 2, 3\]"),
    "not square": (np.zeros((3, 2, 2)), r"got \[3, 2, 2\]"),
    "nan of a state": ([0.0, np.nan], r"TabularReward: \(state 1\) is nan; every value must be finite"),
    "inf of a pair": (changed(np.zeros((3, 2)), (2, 1), -np.inf), r"TabularReward: \(state 2, action 1\) is -inf"),
    "nan of a triple": (changed(P, (2, 1, 0), np.nan), r"\(state 2, action 1, next state 0\) is nan"),
    "sparse shape": (scipy.sparse.csr_matrix(np.ones((4, 3))), r"sparse reward must be \[S \* A, S\], got \[4, 3\]"),
    "sparse nan": (sparse(changed(P, (1, 1, 0), np.nan)), r"TabularReward: .* is nan"),
    "text": ("hello", r"TabularReward values: cannot be read"),
}


@pytest.mark.parametrize("values, message", REWARD.values(), ids=REWARD)
def test_reward(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.TabularReward(values)


def test_reward_per_step() -> None:
    with pytest.raises(ValueError, match=r"TabularReward at time 1: \(state 0\) is inf"):
        F.TabularReward.per_step([[0.0], [np.inf]])
    with pytest.raises(ValueError, match="no tables given"):
        F.TabularReward.per_step([])
    for other in (np.zeros(1), np.zeros(4), np.zeros((4, 2)), np.zeros((3, 3))):
        with pytest.raises(ValueError, match="time 1"):
            F.TabularReward.per_step([np.zeros((3, 2)), other])


@pytest.mark.parametrize(
    "features, weights, message",
    [
        (np.zeros(3), None, r"features must be \[S, d\] or \[S, A, d\], got \[3\]"),
        (changed(np.zeros((3, 2)), (1, 1), np.nan), None, r"LinearReward features: \(state 1, feature 1\) is nan"),
        (changed(np.zeros((3, 2, 2)), (1, 0, 1), np.nan), None, r"\(state 1, action 0, feature 1\) is nan"),
        (np.zeros((3, 2)), [1.0], r"2 features need weights of shape \[2\], got \[1\]"),
        (np.zeros((3, 2)), [1.0, np.inf], r"LinearReward weights: \(feature 1\) is inf"),
    ],
)
def test_linear_reward(features: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.LinearReward(features, weights)


def test_linear_reward_without_weights() -> None:
    with pytest.raises(ValueError, match="weights are not set"):
        F.LinearReward(np.eye(2))(0)


INITIAL = {
    "both": (lambda: F.Categorical([1.0], logits=[0.0]), "give either probs or logits"),
    "none": (lambda: F.Categorical(), "give either probs or logits"),
    "matrix": (lambda: F.Categorical(np.eye(2)), r"expected a vector \[S\], got shape \[2, 2\]"),
    "empty": (lambda: F.Categorical([]), r"got shape \[0\]"),
    "sum": (lambda: F.Categorical([0.5, 0.4]), r"Categorical probs sums to 0.9, not 1 \(off by -0.1\)"),
    "negative": (lambda: F.Categorical([1.5, -0.5]), r"Categorical probs.*negative probability -0.5"),
    "nan": (lambda: F.Categorical([0.5, np.nan]), r"Categorical probs: \(state 1\) is nan"),
    "nan logit": (lambda: F.Categorical(logits=[0.0, np.nan]), "Categorical logits: NaN"),
    "inf logit": (lambda: F.Categorical(logits=[0.0, np.inf]), "Categorical logits: NaN or .inf"),
    "nothing possible": (lambda: F.Categorical(logits=[-np.inf] * 2), "nothing is possible"),
    "sparse": (lambda: F.Categorical(scipy.sparse.eye(2)), "expected a dense array, got a sparse matrix"),
    "delta nan": (lambda: F.Delta([0.0, np.nan]), "Delta: the value must be finite"),
}


@pytest.mark.parametrize("make, message", INITIAL.values(), ids=INITIAL)
def test_initial(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


POLICY = {
    "vector": (lambda: F.TabularPolicy([0.5, 0.5]), r"TabularPolicy: expected probs \[S, A\], got \[2\]"),
    "per step of two": (lambda: F.TabularPolicy.per_step(np.eye(2)), r"expected probs \[T, S, A\], got \[2, 2\]"),
    "empty": (lambda: F.TabularPolicy(np.ones((0, 2))), r"got \[0, 2\]"),
    "row sum": (lambda: F.TabularPolicy([[1.0, 0.0], [0.5, 0.6]]), r"TabularPolicy row \(state 1\) sums to 1.1, not 1"),
    "negative": (lambda: F.TabularPolicy([[1.5, -0.5]]), r"row \(state 0\) has a negative probability -0.5"),
    "nan": (lambda: F.TabularPolicy([[np.nan, 1.0]]), r"\(state 0, .* 0\) is nan"),
    "per step row": (lambda: F.TabularPolicy.per_step([[[1.0]], [[0.9]]]), r"\(time 1, state 0\) sums to 0.9"),
    "flat of numbers": (lambda: F.FlatPrior([[1, 0]]), r"FlatPrior: available must be a boolean \[S, A\], got"),
    "flat vector": (lambda: F.FlatPrior([True]), r"shape \[1\]"),
    "no action": (lambda: F.FlatPrior([[True], [False]]), "FlatPrior: state 1 has no available action"),
    "environment": (lambda: F.Environment("Pendulum-v1"), "Environment: expected a gymnasium.Env, got str"),
}


@pytest.mark.parametrize("make, message", POLICY.values(), ids=POLICY)
def test_policy(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_environment_has_no_distribution() -> None:
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(ValueError, match="can only be stepped"):
        F.Environment(env)(0, 0)
    env.close()


# -- calling ----------------------------------------------------------------------------------------------------------

CALLS = {
    "state": (lambda: F.TabularDynamics(P)(3, 0), "state 3 is outside 0..2"),
    "action": (lambda: F.TabularDynamics(P)(0, 2), "action 2 is outside 0..1"),
    "fraction": (lambda: F.TabularDynamics(P)(0.5, 0), "state must be whole numbers, got 0.5"),
    "reward state": (lambda: F.TabularReward([0.0])(-1), "state -1 is outside 0..0"),
    "needs the action": (lambda: F.TabularReward(np.zeros((3, 2)))(0), "needs action"),
    "needs the next state": (lambda: F.TabularReward(P)(0, 0), "needs next_state"),
    "sparse needs it too": (lambda: F.TabularReward(sparse(P))(0, 0), "needs next_state"),
    "next state": (lambda: F.TabularReward(P)(0, 0, 3), "next_state 3 is outside 0..2"),
    "policy state": (lambda: F.TabularPolicy([[1.0]])(1), "state 1 is outside 0..0"),
    "dynamics time": (lambda: F.TabularDynamics.per_step([P])(0, 0, t=1), "t.*1"),
    "reward time": (lambda: F.TabularReward.per_step([[0.0], [1.0]])(0, t=-1), "t.*-1"),
    "policy time": (lambda: F.TabularPolicy.per_step([[[1.0]]])(0, t=1), "t.*1"),
}


@pytest.mark.parametrize("call, message", CALLS.values(), ids=CALLS)
def test_calls(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
