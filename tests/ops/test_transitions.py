"""Every operation of a transition table: sparse equals dense equals a plain sum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cai.ops import DenseTransitions, SparseTransitions, sparse_from_triplets

S, A = 5, 3
BATCHES = [(), (4,), (3, 2)]
batches = pytest.mark.parametrize("batch", BATCHES, ids=str)
kinds = pytest.mark.parametrize("kind", ["dense", "sparse"])


def table(seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    weights = rng.gamma(0.7, size=(S, A, S)) * (rng.random((S, A, S)) < 0.5)
    weights[..., 0] += 0.1
    return torch.as_tensor(weights / weights.sum(-1, keepdims=True))


def sparse(probs: Tensor) -> SparseTransitions:
    state, action, following = probs.detach().nonzero().T
    return sparse_from_triplets(
        state * A + action, following, probs[state, action, following], num_states=S, num_actions=A
    )


def make(kind: str, probs: Tensor) -> Any:
    return DenseTransitions(probs) if kind == "dense" else sparse(probs)


def on_entries(transitions: Any, full: Tensor) -> Tensor:
    """A quantity `[..., S, A, S]` in the layout of the transitions."""
    if isinstance(transitions, DenseTransitions):
        return full
    rows = transitions.pattern.rows
    return full[..., rows // A, rows % A, transitions.pattern.columns]


def in_full(transitions: Any, entries: Tensor) -> Tensor:
    if isinstance(transitions, DenseTransitions):
        return entries
    rows = transitions.pattern.rows
    full = entries.new_zeros(*entries.shape[:-1], S, A, S)
    full[..., rows // A, rows % A, transitions.pattern.columns] = entries
    return full


def normal(*shape: int, seed: int = 1, spread: float = 1.0) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape) * spread)


def log_mean_exp(x: Any, probs: Tensor) -> np.ndarray:
    """Scipy's own weights give NaN where the greatest entry has none; hence masks."""
    possible = probs.numpy() > 0
    x, weights = np.broadcast_arrays(np.asarray(x), np.where(possible, probs, 1.0))
    return scipy.special.logsumexp(np.where(possible, x, -np.inf), b=weights, axis=-1)


def close(actual: Tensor, expected: Any, tolerance: float = 1e-13) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), np.asarray(expected), rtol=tolerance, atol=tolerance)


# -- messages ---------------------------------------------------------------------------------------------------------


@kinds
@batches
def test_expect(kind: str, batch: tuple[int, ...]) -> None:
    probs, v = table(), normal(*batch, S)
    close(make(kind, probs).expect(v), np.einsum("ijk,...k->...ij", probs, v))


@kinds
def test_expect_counts_minus_infinity_where_it_can_be_reached(kind: str) -> None:
    probs, v = table(), normal(S)
    v[3] = -math.inf
    expected = np.where(probs[..., 3] > 0, -np.inf, probs.numpy()[..., [0, 1, 2, 4]] @ v.numpy()[[0, 1, 2, 4]])
    assert 0 < np.isinf(expected).sum() < expected.size
    close(make(kind, probs).expect(v), expected)


@kinds
@batches
@pytest.mark.parametrize("spread", [1e-12, 0.1, 30.0, 900.0], ids=["next to one", "close", "one shift", "row by row"])
@pytest.mark.parametrize("forbidden", [False, True])
def test_log_expect(kind: str, batch: tuple[int, ...], spread: float, forbidden: bool) -> None:
    probs, x = table(), normal(*batch, S, spread=spread)
    if forbidden:
        x[..., 0] = -math.inf
    expected = log_mean_exp(x[..., None, None, :], probs)
    close(make(kind, probs).log_expect(x), expected)


@kinds
@pytest.mark.parametrize("spread", [0.1, 900.0])
def test_log_expect_where_nothing_is_left(kind: str, spread: float) -> None:
    x = torch.full((S,), -math.inf, dtype=torch.float64)
    assert torch.isneginf(make(kind, table()).log_expect(x)).all()
    x[4] = spread
    expected = log_mean_exp(x, table())
    assert np.isinf(expected).any()
    close(make(kind, table()).log_expect(x), expected)


@kinds
@pytest.mark.parametrize("spread", [0.1, 3.0, 900.0])
def test_log_expect_with_weights_on_entries(kind: str, spread: float) -> None:
    probs, x, weights = table(), normal(S, spread=spread), normal(S, A, S, seed=2, spread=spread)
    transitions = make(kind, probs)
    expected = log_mean_exp(x + weights, probs)
    close(transitions.log_expect(x, on_entries(transitions, weights)), expected)


@pytest.mark.parametrize("scale", [1e-9, 0.1, 3.0])
@pytest.mark.parametrize("lack", [0.0, 1e-9, 5e-7])
def test_both_paths_of_log_expect_agree(scale: float, lack: float) -> None:
    """Weights of zero on the entries say nothing, also where rows sum to one up to rounding only."""
    transitions, x = DenseTransitions(table() * (1 - lack)), normal(S, spread=scale)
    weighted = transitions.log_expect(x, torch.zeros(S, A, S, dtype=torch.float64))
    close(transitions.log_expect(x), weighted, 1e-14)


@kinds
@pytest.mark.parametrize("spread", [0.1, 3.0, 900.0])
def test_log_expect_gradient_is_the_tilted_table(kind: str, spread: float) -> None:
    probs, x = table(), normal(S, spread=spread)
    x[2] = -math.inf
    x, probs = x.requires_grad_(), probs.requires_grad_()
    y = make(kind, probs).log_expect(x)
    seen = ~torch.isneginf(y)
    gradients = torch.autograd.grad(torch.where(seen, y, 0.0).sum(), (x, probs))
    ratio = np.where(seen[..., None], np.exp(x.detach().numpy() - np.where(seen, y.detach(), 0.0)[..., None]), 0.0)
    close(gradients[0], (probs.detach().numpy() * ratio).sum((0, 1)), 1e-12)
    possible = probs.detach() > 0
    close(torch.where(possible, gradients[1], 0.0), np.where(possible, ratio, 0.0), 1e-12)
    assert torch.isfinite(gradients[1]).all()


@pytest.mark.parametrize("spread", [0.1, 3.0])
@pytest.mark.parametrize("operation", ["expect", "log_expect"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_second_derivatives_of_sparse_messages(operation: str, spread: float, batch: tuple[int, ...]) -> None:
    transitions = sparse(table())
    arguments = (transitions.values.clone().requires_grad_(), normal(*batch, S, spread=spread).requires_grad_())

    def message(values: Tensor, x: Tensor) -> Tensor:
        return getattr(transitions.reweighted(values), operation)(x)

    assert gradcheck(message, arguments)
    assert gradgradcheck(message, arguments)


@kinds
@batches
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_best(kind: str, batch: tuple[int, ...], temperature: float) -> None:
    probs, x, weights = table(), normal(*batch, S), normal(S, A, S, seed=2)
    transitions = make(kind, probs)
    with np.errstate(divide="ignore"):
        log_probs = np.where(probs > 0, temperature * np.log(np.where(probs > 0, probs, 1.0)), -np.inf)
    close(transitions.best(x, None, temperature), (log_probs + x.numpy()[..., None, None, :]).max(-1))
    expected = (log_probs + x.numpy()[..., None, None, :] + weights.numpy()).max(-1)
    close(transitions.best(x, on_entries(transitions, weights), temperature), expected)


@kinds
@batches
def test_push(kind: str, batch: tuple[int, ...]) -> None:
    probs, mass = table(), torch.as_tensor(np.random.default_rng(3).random((*batch, S, A)))
    close(make(kind, probs).push(mass), np.einsum("...ij,ijk->...k", mass, probs))


@kinds
@batches
def test_values_may_be_batched(kind: str, batch: tuple[int, ...]) -> None:
    transitions, v, mass = make(kind, table()), normal(*batch, S), normal(*batch, S, A).abs()
    scale = 1 + torch.arange(math.prod(batch), dtype=torch.float64).reshape(batch)
    values = scale.reshape(*batch, *(1,) * transitions.values.dim()) * transitions.values
    many = transitions.reweighted(values)
    close(many.expect(v), scale[..., None, None] * transitions.expect(v))
    close(many.push(mass), scale[..., None] * transitions.push(mass))
    close(many.over_next(many.values), scale[..., None, None].expand(*batch, S, A))


# -- entries ----------------------------------------------------------------------------------------------------------


@kinds
def test_sums_over_entries(kind: str) -> None:
    transitions, full = make(kind, table()), normal(S, A, S) * (table() > 0)
    entries = on_entries(transitions, full)
    close(transitions.over_next(entries), full.sum(-1))
    close(transitions.over_source(entries), full.sum((0, 1)))


@kinds
def test_entries_know_their_ends(kind: str) -> None:
    transitions, v, q = make(kind, table()), normal(S), normal(S, A)
    ones = torch.ones_like(transitions.values)
    possible = in_full(transitions, ones)
    close(in_full(transitions, transitions.at_next(v) * ones), v.numpy() * possible.numpy())
    close(in_full(transitions, transitions.at_source(q) * ones), q.numpy()[..., None] * possible.numpy())


@kinds
def test_entry_and_rows(kind: str) -> None:
    transitions, probs = make(kind, table()), table()
    state, action, following = torch.meshgrid(torch.arange(S), torch.arange(A), torch.arange(S), indexing="ij")
    close(transitions.entry(transitions.values, state, action, following), probs)
    close(transitions.rows(state[..., 0], action[..., 0]), probs)
    close(transitions.rows(torch.tensor(2), torch.tensor(1)), probs[2, 1])


@kinds
@batches
def test_first_of_each(kind: str, batch: tuple[int, ...]) -> None:
    transitions = make(kind, table())
    marked = torch.as_tensor(np.random.default_rng(4).random((*batch, *transitions.values.shape)) < 0.6).double()
    kept, full = in_full(transitions, transitions.first_of_each(marked)), in_full(transitions, marked)
    expected = np.zeros(full.shape)
    for index in np.ndindex(full.shape[:-1]):
        places = full[index].nonzero()
        if len(places):
            expected[(*index, int(places[0]))] = 1.0
    close(kept, expected)


@kinds
def test_state_matrix(kind: str) -> None:
    weights = normal(S, A).abs()
    matrix = make(kind, table()).state_matrix(weights)
    matrix = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    np.testing.assert_allclose(matrix, np.einsum("ia,iaj->ij", weights, table()), atol=1e-15)


@kinds
def test_sample_frequencies(kind: str) -> None:
    num, probs = 20_000, table()
    state, action = torch.arange(S).repeat_interleave(A), torch.arange(A).repeat(S)
    generator = torch.Generator().manual_seed(0)
    drawn = make(kind, probs).sample(state.repeat(num), action.repeat(num), generator).reshape(num, S * A)
    counts = torch.nn.functional.one_hot(drawn, S).sum(0).reshape(S, A, S)
    assert (counts[probs == 0] == 0).all()
    errors = (num * probs * (1 - probs)).sqrt()
    assert ((counts - num * probs).abs() <= 5.5 * errors + 1e-9).all()


@kinds
def test_sampling_passes_over_rows_without_entries(kind: str) -> None:
    """The row of a terminal state is never read, and may be empty; the draw for it is arbitrary, but no error."""
    probs = table()
    probs[S - 1] = 0.0
    drawn = make(kind, probs).sample(torch.tensor([0, S - 1]), torch.tensor([1, 1]), torch.Generator().manual_seed(0))
    assert probs[0, 1, drawn[0]] > 0


# -- construction -----------------------------------------------------------------------------------------------------


def test_triplets_in_any_order_with_duplicates() -> None:
    rows, columns = torch.tensor([4, 0, 4, 2, 0]), torch.tensor([1, 0, 1, 0, 1])
    values = torch.tensor([0.25, 1.0, 0.75, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    transitions = sparse_from_triplets(rows, columns, values, num_states=2, num_actions=3)
    assert transitions.pattern.rows.tolist() == [0, 0, 4]
    assert transitions.pattern.columns.tolist() == [0, 1, 1]
    assert transitions.values.tolist() == [1.0, 0.5, 1.0]
    (gradient,) = torch.autograd.grad(transitions.values[2], values)
    assert gradient.tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]
