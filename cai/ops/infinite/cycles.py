"""The cycles of a Markov chain: what it earns from one visit of a landmark to the next, and how long that takes.

G is row-stochastic, with a landmark in each closed class, and G' is G with the columns of the landmarks set to zero:
the chain that ends on arrival at one. G' has a spectral radius below one, so that everything is a solve with I - G'.

    time      tau = (I - G')^-1 1                       expected time to the next landmark
    gains     g_i = y(i) / tau(i),  y = (I - G')^-1 k   what a class earns a step: a cycle's earnings by its time
    bias      D = y - g tau                             solves D = k - g + G D, D(landmark) = 0      (one landmark)
    visits    d ~ (I - G')^-T e_landmark                visits in a cycle: the stationary distribution      (")

Sources: Kemeny and Snell (1960), chapter 6; Puterman (1994), section 8.2 and appendix A for gain and bias.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse
import torch

from cai.ops.infinite.chain_structure import Matrix, closed_classes, greatest_of_each
from cai.ops.infinite.linear import EXACT, LONGEST_TIME, Resolvent

#: A weight up to this cannot be told from no edge at all.
NO_EDGE = 1.0 / LONGEST_TIME
#: Pushes of the uniform distribution after which a much visited state is looked for, and how many times as many visits
#: another must have to be worth a second factorisation.
_NUM_PUSHES, _WORTH = 32, 4.0
#: Up to this time to a landmark there is no need for a better one.
_SHORT = 1e4
#: Relative residual of a solve that looks for a landmark.
_ROUGH = 1e-6
#: The mean length of a long run, steps: far from what rounding hides on either side.
_LONG = 1e8
#: A difference of averages that is none, relative to the greatest.
_TIED = 1e-6


class Cycles:
    """The cycles of a chain between visits of landmarks.

    Args:
        chain: G, `[S, S]`, rows sum to one, on the CPU.
        ends: `[C]`, int, the landmarks, one in each closed class.

    Attributes:
        resolvent: (I - G')^-1.
        time: `[S]`, tau.
        longest: A bound of max tau, verified: any tau > 0 with (I - G') tau >= 1 is one. Infinite where nothing is.
    """

    def __init__(self, chain: Matrix, ends: np.ndarray) -> None:
        self.ends = ends
        ending = _without_columns(chain, ends)
        self.resolvent = Resolvent(ending)
        self.time = self._solve(np.ones(chain.shape[0]))
        self.longest = math.inf
        if np.isfinite(self.time).all() and self.time.min() > 0.0:
            slack = (self.time - ending @ self.time).min()
            self.longest = float(self.time.max() / slack) if slack > 0.0 else math.inf

    @property
    def are_short(self) -> bool:
        """Whether what the cycles say can be told from rounding."""
        return self.longest <= LONGEST_TIME

    def gains(self, earned: np.ndarray) -> np.ndarray:
        """Computes what each class earns a step, `[C]`, of what each state earns, `[S]`."""
        middle = _middle(earned)
        return middle + self._solve(earned - middle)[self.ends] / self.time[self.ends]

    def bias(self, earned: np.ndarray) -> np.ndarray:
        """Solves D = k - g + G D, D = 0 at the one landmark: `[S]` to `[S]`."""
        middle = _middle(earned)
        total = self._solve(earned - middle)  # what all earn cancels; its digits need not be lost first
        if self.longest > _SHORT:  # over a long time, the same is worth saying of the gain
            gain = total[self.ends] / self.time[self.ends]
            total = self._solve(earned - middle - gain)
        return total - total[self.ends] / self.time[self.ends] * self.time

    def visits(self, *, rtol: float = EXACT) -> np.ndarray:
        """Computes the stationary distribution, `[S]`, of a chain with one landmark (a mixture, with several)."""
        start = np.zeros_like(self.time)
        start[self.ends] = 1.0
        visits = _solved(self.resolvent, start, transposed=True, rtol=rtol).clip(min=0.0)
        return visits / visits.sum()

    def _solve(self, right: np.ndarray) -> np.ndarray:
        return _solved(self.resolvent, right)


def cycles_of(chain: Matrix) -> Cycles:
    """Finds the closed classes of a chain and its cycles, with a much visited landmark in each class.

    Args:
        chain: G, `[S, S]`, rows sum to one.
    """
    classes = closed_classes(chain, negligible=NO_EDGE)
    mass = np.full(len(classes), 1.0 / len(classes))
    for _ in range(_NUM_PUSHES):
        mass = 0.5 * (mass + chain.T @ mass)  # half a step: a periodic chain settles, too
    cycles = Cycles(chain, greatest_of_each(mass, classes))
    if cycles.longest <= _SHORT:
        return cycles
    visits = cycles.visits(rtol=_ROUGH) if cycles.are_short else LongRun(chain).visits()
    better = greatest_of_each(visits, classes)
    return Cycles(chain, better) if (visits[better] > _WORTH * visits[cycles.ends]).any() else cycles


class LongRun:
    """A chain over a long time of random length: what can be said where it all but falls into several classes.

    Args:
        chain: G, `[S, S]`, rows sum to one, on the CPU.
    """

    def __init__(self, chain: Matrix) -> None:
        self._chain = chain
        self._going_on = Resolvent((1.0 - 1.0 / _LONG) * chain)

    def visits(self) -> np.ndarray:
        """Computes where it is, on average, when all states are as likely at first: `[S]`."""
        size = self._chain.shape[0]
        return _solved(self._going_on, np.full(size, 1.0 / (size * _LONG)), transposed=True, rtol=_ROUGH)

    def best_class(self, earned: np.ndarray, allowed: np.ndarray) -> tuple[int, np.ndarray]:
        """Finds the class that earns most, and from where the chain gets there, more likely than not.

        Args:
            earned: `[S]`, what each state earns.
            allowed: `[S]`, bool, where to look.

        Returns:
            A much visited state of the class, and a mask `[S]`.
        """
        averages = self.averages(earned)
        good = allowed & (averages >= averages[allowed].max() - _TIED * np.ptp(averages))
        best = int(np.where(good, self.visits(), -1.0).argmax())
        return best, self.reaches(best)

    def averages(self, earned: np.ndarray) -> np.ndarray:
        """Computes what it earns a step, for each first state, of what each state earns: `[S]` to `[S]`."""
        return _solved(self._going_on, earned / _LONG)

    def reaches(self, state: int) -> np.ndarray:
        """Says from where it gets to a state, more likely than not: `[S]`, bool."""
        arrives = np.zeros(self._chain.shape[0])
        arrives[state] = 1.0
        ending = Resolvent((1.0 - 1.0 / _LONG) * _without_columns(self._chain, np.array([state])))
        return _solved(ending, (1.0 - 1.0 / _LONG) * (self._chain @ arrives)) > 0.5


def stochastic(chain: Matrix) -> Matrix:
    """Divides the rows by their sums, which rounding (of float32 tables, above all) makes differ from one."""
    scale = 1.0 / np.asarray(chain.sum(1), dtype=np.float64).ravel()
    if not scipy.sparse.issparse(chain):
        return chain * scale[:, None]
    return scipy.sparse.csr_matrix(scipy.sparse.diags(scale) @ chain)


def mixed_rows(mask: np.ndarray, chain: Matrix, other: Matrix) -> Matrix:
    """Takes the rows of one matrix where the mask `[S]` is true, of the other elsewhere."""
    if not scipy.sparse.issparse(chain):
        return np.where(mask[:, None], chain, other)
    taken, left = (scipy.sparse.diags(part.astype(np.float64)) for part in (mask, ~mask))
    return scipy.sparse.csr_matrix(taken @ chain + left @ other)


def _without_columns(chain: Matrix, columns: np.ndarray) -> Matrix:
    kept = np.ones(chain.shape[0])
    kept[columns] = 0.0
    if not scipy.sparse.issparse(chain):
        return chain * kept
    ending = scipy.sparse.csr_matrix(chain @ scipy.sparse.diags(kept))
    ending.eliminate_zeros()
    return ending


def _solved(resolvent: Resolvent, right: np.ndarray, *, transposed: bool = False, rtol: float = EXACT) -> np.ndarray:
    return resolvent.solve(torch.from_numpy(right), transposed=transposed, rtol=rtol).numpy()


def _middle(earned: np.ndarray) -> float:
    return 0.5 * float(earned.min() + earned.max())
