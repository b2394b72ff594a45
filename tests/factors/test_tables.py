"""What factors keep: gradients, zeros, sparsity, dtypes; and what they do not: the user's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from cai.ops import DenseTransitions, SparseTransitions

F = cai.factors
RNG = np.random.default_rng(0)
P = RNG.dirichlet(np.ones(3), size=(3, 2))
R = RNG.normal(size=(3, 2))


def sparse(table: np.ndarray) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(table.reshape(-1, table.shape[-1]))


# -- calling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probs", [P, sparse(P)], ids=["dense", "sparse"])
def test_dynamics_is_a_distribution(probs: Any) -> None:
    dynamics = F.TabularDynamics(probs, terminal=[False, False, True])
    states, actions = torch.arange(3)[:, None], torch.arange(2)
    np.testing.assert_allclose(dynamics(states, actions).probs, P, atol=1e-15)
    np.testing.assert_allclose(dynamics(1, 0).probs, P[1, 0], atol=1e-15)
    np.testing.assert_allclose(dynamics(np.array([0.0, 1.0]), 1).probs, P[:2, 1], atol=1e-15)
    assert dynamics.terminal(0, 0, [0, 2]).tolist() == [False, True]
    np.testing.assert_allclose(dynamics.dense(), P)
    assert (dynamics.num_states, dynamics.num_actions, dynamics.num_steps) == (3, 2, None)


@pytest.mark.parametrize("kind", ["s", "sa", "sas", "sparse"])
def test_reward_is_a_tensor(kind: str) -> None:
    triples = RNG.normal(size=(3, 2, 3)) * (RNG.random((3, 2, 3)) < 0.5)
    values = {"s": R[:, 0], "sa": R, "sas": triples, "sparse": sparse(triples)}[kind]
    expected = {"s": R[:, :1, None], "sa": R[..., None]}.get(kind, triples)
    state, action, following = torch.arange(3)[:, None, None], torch.arange(2)[:, None], torch.arange(3)
    found = F.TabularReward(values)(state, action, following)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (3, 2, 3)))
    assert F.TabularReward(values)(1, 0, 2).dim() == 0


def test_reward_of_states_needs_no_action() -> None:
    assert F.TabularReward([1.0, 2.0])([1, 0]).tolist() == [2.0, 1.0]


def test_factors_of_each_step() -> None:
    dynamics, reward = F.TabularDynamics.per_step([P, P[::-1].copy()]), F.TabularReward.per_step([R, -R])
    policy = F.TabularPolicy.per_step([np.full((3, 2), 0.5), np.eye(2)[[0, 1, 0]]])
    np.testing.assert_allclose(dynamics(0, 1, t=1).probs, P[2, 1])
    assert float(reward(2, 1, t=1)) == -R[2, 1]
    assert policy(1, t=1).probs.tolist() == [0.0, 1.0]
    assert dynamics.num_steps == reward.num_steps == policy.num_steps == 2
    np.testing.assert_array_equal(dynamics.dense(), np.stack([P, P[::-1]]))
    assert isinstance(dynamics.probs, tuple)
    assert isinstance(reward.values, tuple)


def test_sparse_tables_of_each_step() -> None:
    dynamics = F.TabularDynamics.per_step([sparse(P), sparse(P)])
    assert all(isinstance(table, SparseTransitions) for table in dynamics.transition_tables())
    np.testing.assert_allclose(dynamics.dense(), np.stack([P, P]))


def test_linear_reward() -> None:
    phi, w = RNG.normal(size=(3, 2, 4)), RNG.normal(size=4)
    reward = F.LinearReward(phi, w)
    np.testing.assert_allclose(reward(torch.arange(3)[:, None], torch.arange(2)), phi @ w)
    assert (reward.num_states, reward.num_actions) == (3, 2)
    of_states = F.LinearReward(phi[:, 0], w)
    np.testing.assert_allclose(of_states([0, 1, 2]), phi[:, 0] @ w)
    assert of_states.num_actions is None


# -- zeros stay zeros -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_probability_is_exactly_zero(dtype: torch.dtype) -> None:
    """The Categorical(probs=) of torch Categorical(probs=) would raise it to the machine's epsilon."""
    row = [0.0, 1.0]
    distributions = {
        "initial": F.Categorical(row, dtype=dtype)(),
        "initial by logits": F.Categorical(logits=[-np.inf, 3.0], dtype=dtype)(),
        "policy": F.TabularPolicy([row], dtype=dtype)(0),
        "dense": F.TabularDynamics([[row], [row]], dtype=dtype)(0, 0),
        "sparse": F.TabularDynamics(scipy.sparse.csr_matrix([row, row]), dtype=dtype)(0, 0),
    }
    for name, distribution in distributions.items():
        assert distribution.logits.dtype == dtype, name
        assert distribution.probs.tolist() == row, name
        assert distribution.log_prob(torch.tensor(0)) == -torch.inf, name
        assert distribution.sample((1000,)).all(), name


def test_point_masses() -> None:
    assert F.Delta(2).initial_table(4).tolist() == [0, 0, 1, 0]
    assert F.Delta(2.0).initial_table(4).tolist() == [0, 0, 1, 0]
    assert F.Delta([1.0, 2.0])().sample().tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="4 is outside 0..3"):
        F.Delta(4).initial_table(4)
    with pytest.raises(ValueError, match=r"Delta of shape \[2\] is not one of 4 discrete states"):
        F.Delta([1.0, 2.0]).initial_table(4)


# -- gradients and dtypes ---------------------------------------------------------------------------------------------


def leaf(values: Any) -> torch.Tensor:
    return torch.tensor(np.array(values), requires_grad=True)


def test_gradients_are_kept() -> None:
    p0, probs, r, w, mu = leaf([0.5, 0.5]), leaf(P), leaf(R), leaf([1.0, 2.0]), leaf([[0.3, 0.7]])
    made = {
        p0: F.Categorical(p0).probs,
        probs: F.TabularDynamics(probs).probs,
        r: F.TabularReward(r).values,
        w: F.LinearReward(np.eye(2), w).values,
        mu: F.TabularPolicy(mu).probs,
    }
    for given, kept in made.items():
        (gradient,) = torch.autograd.grad(kept.sum(), given)
        assert (gradient != 0).all()
    logits = leaf([0.1, 0.2])
    assert torch.autograd.grad(F.Categorical(logits=logits).probs[0], logits)[0].abs().sum() > 0


def test_gradients_of_sparse_tables_and_successors_are_kept() -> None:
    dense = leaf(P)
    dynamics = F.TabularDynamics(dense.flatten(0, 1).to_sparse())
    (gradient,) = torch.autograd.grad(dynamics.dense()[1, 0, 2], dense)
    assert gradient.nonzero().tolist() == [[1, 0, 2]]
    probs = leaf(np.full((3, 2, 2), 0.5))
    successors = F.TabularDynamics.from_successors(np.zeros((3, 2, 2), int), probs)
    (gradient,) = torch.autograd.grad(successors.dense()[1, 0, 0], probs)
    assert gradient.nonzero().tolist() == [[1, 0, 0], [1, 0, 1]]


def test_dtypes() -> None:
    single = torch.float32
    assert F.Categorical(np.array([1.0], dtype=np.float32)).probs.dtype == torch.float64
    assert F.TabularReward([1, 2]).values.dtype == torch.float64
    assert F.TabularReward(torch.tensor([1.0]), dtype=single).values.dtype == single
    assert F.TabularDynamics(P, dtype=single).dense().dtype == single
    assert F.TabularDynamics(sparse(P), dtype=single).dense().dtype == single
    assert F.LinearReward(np.eye(2), [1, 1], dtype=single).values.dtype == single


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex128])
def test_tables_are_of_floating_numbers(dtype: torch.dtype) -> None:
    makers = (lambda: F.TabularReward([0.5], dtype=dtype), lambda: F.Categorical([0.5, 0.5], dtype=dtype))
    for make in (*makers, lambda: F.TabularReward(sparse(P), dtype=dtype)):
        with pytest.raises(ValueError, match="floating"):
            make()


# -- sparse stays sparse ----------------------------------------------------------------------------------------------

SPARSE = {
    "csr": lambda: sparse(P),
    "csc": lambda: sparse(P).tocsc(),
    "array": lambda: scipy.sparse.coo_array(sparse(P)),
    "torch coo": lambda: torch.as_tensor(P).flatten(0, 1).to_sparse(),
    "torch csr": lambda: torch.as_tensor(P).flatten(0, 1).to_sparse_csr(),
}


@pytest.mark.parametrize("make", SPARSE.values(), ids=SPARSE)
def test_sparse_stays_sparse(make: Any) -> None:
    dynamics = F.TabularDynamics(make())
    assert isinstance(dynamics.transition_tables()[0], SparseTransitions)
    assert dynamics.probs.layout == torch.sparse_csr
    np.testing.assert_allclose(dynamics.dense(), P)
    assert isinstance(F.TabularDynamics(P).transition_tables()[0], DenseTransitions)


def test_half_a_million_states_are_not_made_dense() -> None:
    """The dense table would take 4 TB."""
    num = 500_000
    ring = ((np.arange(num)[:, None] + np.array([1, 2])) % num)[..., None]
    graph = cai.TrajectoryGraph(
        F.Delta(0),
        F.TabularDynamics.from_successors(ring, np.ones(ring.shape)),
        F.TabularReward(np.ones(num)),
        horizon=3,
    )
    posterior = cai.infer(graph, cai.SoftValueIteration())
    assert float(posterior.v(0)) == pytest.approx(3.0)
    assert posterior.state_marginals[1].nonzero().flatten().tolist() == [1, 2]


# -- the user's arrays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_later_changes_by_the_user_do_not_reach_a_factor(kind: Any) -> None:
    mask, probs, vector = kind([False, True]), kind([[[1.0, 0.0]], [[0.0, 1.0]]]), kind([1.0, 0.0])
    available = kind([[True, False], [True, True]])
    dynamics, initial = F.TabularDynamics(probs, terminal=mask), F.Categorical(vector)
    reward, flat, delta = F.TabularReward(vector), F.FlatPrior(available), F.Delta(vector)
    linear, policy = F.LinearReward(probs[:, 0], vector), F.TabularPolicy(probs[:, 0])
    before = [dynamics.dense().clone(), linear.values.clone(), policy.probs.clone()]
    mask[0], available[0, 1], probs[:], vector[:] = True, True, 7.0, 7.0
    assert dynamics.terminal_mask.tolist() == [False, True]
    assert flat.available.tolist() == [[True, False], [True, True]]
    for kept in (initial.probs, reward.values, delta.value):
        assert kept.tolist() == [1.0, 0.0]
    assert all(map(torch.equal, before, [dynamics.dense(), linear.values, policy.probs]))


def test_later_changes_of_a_sparse_matrix_do_not_reach_the_table() -> None:
    matrix = sparse(P)
    dynamics, reward = F.TabularDynamics(matrix), F.TabularReward(matrix)
    matrix.data[:], matrix.indices[:] = 0.0, 0
    np.testing.assert_allclose(dynamics.dense(), P)
    assert float(reward(2, 1, 2)) == P[2, 1, 2]


# -- priors -----------------------------------------------------------------------------------------------------------


def test_flat_prior_counts() -> None:
    assert F.FlatPrior().prior_table(2, 3).tolist() == [[[1.0] * 3] * 2]
    assert F.FlatPrior([[True, False]]).prior_table(1, 2).tolist() == [[[1.0, 0.0]]]
    with pytest.raises(ValueError, match=r"FlatPrior is for \[1, 2\] states and actions, the dynamics has \[2, 2\]"):
        F.FlatPrior([[True, False]]).prior_table(2, 2)
    with pytest.raises(ValueError, match="TabularPolicy is for 1 states and 2 actions, the dynamics has 3 and 2"):
        F.TabularPolicy([[0.5, 0.5]]).prior_table(3, 2)
