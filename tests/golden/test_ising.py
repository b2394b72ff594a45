"""The Ising model on a 12 x 6 grid with free edges, against its transfer matrix in numpy.

    p(s) ~ exp(sum_edges J_ij s_i s_j + sum_i h_i s_i),    s_i = -1 or 1

A row of six spins has 64 configurations. With w_r(c) the weight of row r by itself, T_r(c, d) the weight of the bonds
between rows r and r + 1, forward messages f_{r+1}(d) = w(d) sum_c f_r(c) T_r(c, d) and backward ones b_r the other way,
log Z = log sum f_last, p(row r) ~ f_r b_r, p(rows r, r + 1) ~ f_r T_r w b.

Source: Kramers and Wannier (1941) for the matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import cai
from tests.graph_oracles import Model, factor_graph_of
from tests.laws.build import assert_close, numpy_of

ROWS, COLUMNS = 12, 6


@dataclass(frozen=True, eq=False)
class Ising:
    """Couplings along rows `[R, C - 1]`, along columns `[R - 1, C]`, fields `[R, C]`; spins known, by place."""

    along: np.ndarray
    across: np.ndarray
    fields: np.ndarray

    @property
    def spins(self) -> np.ndarray:
        """Every configuration of a row, `[2^C, C]`."""
        return np.array(list(itertools.product((-1.0, 1.0), repeat=self.fields.shape[1])))

    def rows(self, known: dict[tuple[int, int], int] | None = None) -> np.ndarray:
        """Log w_r(c), `[R, 2^C]`."""
        spins = self.spins
        logs = self.fields @ spins.T + self.along @ (spins[:, 1:] * spins[:, :-1]).T
        for (r, c), spin in (known or {}).items():
            logs[r] = np.where(spins[:, c] == spin, logs[r], -np.inf)
        return logs

    def bonds(self, r: int) -> np.ndarray:
        """Log T_r(c, d), `[2^C, 2^C]`."""
        return (self.spins * self.across[r]) @ self.spins.T

    def messages(
        self, reduce: Callable[[np.ndarray], np.ndarray] = np.logaddexp.reduce
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log f and log b, `[R, 2^C]` each."""
        logs = self.rows()
        forward, backward = [logs[0]], [np.zeros_like(logs[0])]
        for r in range(len(logs) - 1):
            forward.append(logs[r + 1] + reduce(forward[-1][:, None] + self.bonds(r)))
        for r in reversed(range(len(logs) - 1)):
            backward.append(reduce((self.bonds(r) + logs[r + 1] + backward[-1]).T))
        return np.stack(forward), np.stack(backward[::-1])

    def log_z(self, known: dict[tuple[int, int], int] | None = None) -> float:
        """Log Z of the configurations in which the known spins are as they should be."""
        logs = self.rows(known)
        message = logs[0]
        for r in range(len(logs) - 1):
            message = logs[r + 1] + np.logaddexp.reduce(message[:, None] + self.bonds(r))
        return float(np.logaddexp.reduce(message))

    def magnetisations(self) -> np.ndarray:
        """E s_i, `[R, C]`."""
        forward, backward = self.messages()
        return np.exp(forward + backward - self.log_z()) @ self.spins

    def correlations(self) -> tuple[np.ndarray, np.ndarray]:
        """E s_i s_j along rows `[R, C - 1]` and columns `[R - 1, C]`."""
        (forward, backward), logs, log_z = self.messages(), self.rows(), self.log_z()
        along = np.exp(forward + backward - log_z) @ (self.spins[:, 1:] * self.spins[:, :-1])
        across = []
        for r in range(len(logs) - 1):
            joint = np.exp(forward[r][:, None] + self.bonds(r) + (logs + backward)[r + 1] - log_z)
            across.append(((joint.T @ self.spins) * self.spins).sum(0))
        return along, np.stack(across)

    def model(self) -> Model:
        """The same as a factor graph: variables "r,c" with value 1 for spin up."""
        spin = np.array([-1.0, 1.0])
        num_rows, num_columns = self.fields.shape
        names = [[f"{r},{c}" for c in range(num_columns)] for r in range(num_rows)]
        factors = [((names[r][c],), self.fields[r, c] * spin) for r, c in np.ndindex(self.fields.shape)]
        for r, c in np.ndindex(self.along.shape):
            factors.append(((names[r][c], names[r][c + 1]), self.along[r, c] * np.outer(spin, spin)))
        for r, c in np.ndindex(self.across.shape):
            factors.append(((names[r][c], names[r + 1][c]), self.across[r, c] * np.outer(spin, spin)))
        return Model(dict.fromkeys(sum(names, []), 2), tuple(factors))


def random_ising(seed: int, rows: int = ROWS, columns: int = COLUMNS, scale: float = 1.0) -> Ising:
    rng = np.random.default_rng(seed)
    shapes = ((rows, columns - 1), (rows - 1, columns), (rows, columns))
    return Ising(*(scale * rng.normal(size=shape) for shape in shapes))


def uniform_ising(coupling: float, field: float = 0.0) -> Ising:
    along, across = np.full((ROWS, COLUMNS - 1), coupling), np.full((ROWS - 1, COLUMNS), coupling)
    return Ising(along, across, np.full((ROWS, COLUMNS), field))


MODELS = {
    "random": random_ising(0),
    "random, strong": random_ising(1, scale=30.0),
    "uniform, critical": uniform_ising(0.5 * np.log1p(np.sqrt(2.0))),
    "uniform, with a field": uniform_ising(0.3, 0.1),
    "antiferromagnet": uniform_ising(-0.8, 0.5),
}
models = pytest.mark.parametrize("ising", MODELS.values(), ids=MODELS)
SIGNS = np.array([[1.0, -1.0], [-1.0, 1.0]])


def test_the_transfer_matrix_equals_enumeration() -> None:
    ising = random_ising(3, rows=3, columns=4)
    model = ising.model()
    assert_close(ising.log_z(), model.log_evidence)
    along, across = ising.correlations()
    for r, c in np.ndindex(3, 4):
        probs = model.marginal([f"{r},{c}"])
        assert_close(ising.magnetisations()[r, c], probs[1] - probs[0])
    assert_close(along[2, 1], (model.marginal(("2,1", "2,2")) * SIGNS).sum())
    assert_close(across[1, 3], (model.marginal(("1,3", "2,3")) * SIGNS).sum())
    forward, _ = ising.messages(np.maximum.reduce)
    assert_close(forward[-1].max(), model.log_maximum)


@models
def test_evidence_magnetisations_and_correlations(ising: Ising) -> None:
    posterior = cai.infer(factor_graph_of(ising.model()), cai.SumProduct())
    assert_close(posterior.log_evidence, ising.log_z())
    probs = np.array([[numpy_of(posterior.marginals[f"{r},{c}"]) for c in range(COLUMNS)] for r in range(ROWS)])
    assert_close(probs[..., 1] - probs[..., 0], ising.magnetisations())
    along, across = ising.correlations()
    for r, c in np.ndindex(along.shape):
        joint = numpy_of(posterior.marginal(f"{r},{c}", f"{r},{c + 1}"))
        assert_close((joint * SIGNS).sum(), along[r, c])
    for r, c in np.ndindex(across.shape):
        joint = numpy_of(posterior.marginal(f"{r + 1},{c}", f"{r},{c}"))
        assert_close((joint * SIGNS).sum(), across[r, c])


@models
def test_corners_know_of_each_other(ising: Ising) -> None:
    """No clique of any junction tree holds two corners; log p(s_a, s_b) = log Z(a, b known) - log Z."""
    posterior = cai.infer(factor_graph_of(ising.model()), cai.SumProduct())
    joint = numpy_of(posterior.marginal("0,0", "11,5"))
    for i, j in np.ndindex(2, 2):
        known = {(0, 0): 2 * i - 1, (11, 5): 2 * j - 1}
        assert_close(joint[i, j], np.exp(ising.log_z(known) - ising.log_z()))


def test_a_frame_of_known_spins() -> None:
    ising = random_ising(4)
    known = {(r, c): 1 for r, c in np.ndindex(ROWS, COLUMNS) if r in (0, ROWS - 1) or c in (0, COLUMNS - 1)}
    graph = factor_graph_of(ising.model()).condition({f"{r},{c}": 1 for r, c in known})
    assert_close(cai.infer(graph, cai.SumProduct()).log_evidence, ising.log_z(known))


@models
def test_the_ground_state(ising: Ising) -> None:
    posterior = cai.infer(factor_graph_of(ising.model()), cai.MaxProduct())
    forward, _ = ising.messages(np.maximum.reduce)
    assert_close(posterior.log_evidence, forward[-1].max())
    assert_close(posterior.graph.log_density(posterior.most_probable_assignment), forward[-1].max())


def test_samples_have_the_magnetisation() -> None:
    ising, num = MODELS["uniform, with a field"], 2000
    samples = cai.infer(factor_graph_of(ising.model()), cai.SumProduct()).sample(num, seed=0)
    spins = np.stack([numpy_of(samples[f"{r},{c}"]) for r, c in np.ndindex(ROWS, COLUMNS)]) * 2.0 - 1.0
    expected = ising.magnetisations().reshape(-1)
    error = np.abs(spins.mean(1) - expected)
    assert (error <= 7 * np.sqrt((1 - expected**2) / num)).all()
    neighbours = (spins[0] * spins[1]).mean()
    along = ising.correlations()[0][0, 0]
    assert abs(neighbours - along) <= 7 * np.sqrt((1 - along**2) / num)
