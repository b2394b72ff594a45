"""Newton's steps towards the fixed point of a risk-sensitive backup, V = B V, and the certificate of any step.

    V <- V + t d,     (I - G) d = F(V),     F = B V - V,     G = dB/dV

B is monotone and nonexpansive in the maximum norm: the discount does not contract it, but the chance to survive,
which is in G, is below one. For eta > 0 it is convex, and full steps (t = 1) rise to the solution from any V <= B V,
which one step from anywhere gives. For eta < 0 it is neither convex nor concave. But F(V + t d) = (1 - t) F(V) + o(t):
a short enough step reduces max |F| wherever B is smooth, and a sweep, V <- B V, never increases it. So t is halved
until the residual falls, and where no t serves some sweeps are done. Sweeps alone converge from anywhere to a solution,
if there is one and only one: V* + c and V* - c are super- and subsolutions for any c > 0.

Where eta < 0 and V lies far below all ends, the worst case never ends, as far as numbers can tell, and V only climbs by
the step. So iterations start from above: from zero where a discount ends episodes at value zero, else from the best
value under the dynamics as it is, which exceeds that of any eta < 0.

Where Newton's step fails, the cause may be that no solution exists: then, and only then, that is looked into
(`cai.ops.infinite.growth`). Errors are certified by an enclosure (`cai.ops.infinite.enclosure`), with n = (I - G)^-1 1.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cai.errors import IncompatibleMethod, NotConverged
from cai.ops.infinite.enclosure import enclosed_error
from cai.ops.infinite.linear import EXACT, LONGEST_TIME, ROUGH, Resolvent
from cai.ops.infinite.sweeps import Swept, change
from cai.ops.messages import check_messages
from cai.ops.readings import HIGH_TEMPERATURE

if TYPE_CHECKING:
    from cai.ops.infinite.fixed_point import Iterate, Stationary

#: The shortest step tried is 1/256 of Newton's, and so many sweeps are done where none serves.
_HALVINGS, _SWEEPS = 9, 32
#: Newton steps of a start, which need not be exact, and a step after which there is no use in another.
_MOST_CLIMBS, _FARTHEST = 30, 1e12


def risk_start(problem: Stationary, fixed: Stationary) -> Tensor:
    """Gives a V to start from, `[S]`; see the module's doc string.

    Args:
        problem: The fixed-point problem.
        fixed: The same with the dynamics as it is.

    Raises:
        IncompatibleMethod: The prior's policy never ends.
    """
    tables = problem.tables
    if tables.discount < 1.0 or tables.is_hard:
        return torch.where(tables.terminal, tables.terminal_values, 0.0).detach()
    below = fixed.start()
    return below if problem.reading.is_convex else _best(fixed, below)


def _best(fixed: Stationary, below: Tensor) -> Tensor:
    """Climbs from the value of a policy to that of the best one, roughly; where there is none stays below."""
    v = below
    for _ in range(_MOST_CLIMBS):
        q, once_more = fixed.backup(v)
        step = _solved(fixed.resolvent(fixed.chain(q, once_more, v), v), once_more - v, rtol=ROUGH)
        if not float(step.abs().max()) < _FARTHEST:
            return below
        v = v + step
        if float(step.max()) <= ROUGH * max(1.0, float(v.abs().max())):
            break
    return v


def risk_newton_step(problem: Stationary, iterate: Iterate, *, tolerance: float, forcing: float = 0.0) -> Iterate:
    """Replaces V by V + t d, or by B V where that is within the tolerance or the direction d is of no use.

    Args:
        problem: The fixed-point problem.
        iterate: Where the iteration stands.
        tolerance: Error of V to reach, relative to max(1, max|V|).
        forcing: Residual that the linear solve may leave, relative; less as the steps converge. Zero solves exactly.

    Raises:
        IncompatibleMethod: No finite value exists.
    """
    q, v = problem.backup(iterate.v)
    check_messages(v[None])
    swept = Swept(v, *change(v, iterate.v))
    resolvent = problem.resolvent(problem.chain(q, v, iterate.v), v)
    finished = risk_judged(problem, iterate, swept, tolerance, resolvent)
    if finished.done:
        return finished
    if finished.longest < LONGEST_TIME:
        falling = min(1.0, swept.residual / iterate.residual) if iterate.residual > 0.0 else 1.0
        direction = _solved(resolvent, v - iterate.v, rtol=max(forcing * falling, EXACT))
        moved = _moved(problem, iterate.v, direction, swept.residual)
        if moved is not None:
            return replace(finished, v=moved)
    if swept.residual > 1e-6 * max(1.0, swept.largest) and (reason := problem.why_endless):
        raise IncompatibleMethod(reason)
    for _ in range(_SWEEPS):
        if finished.done:
            break
        finished = problem.sweep(finished, tolerance=tolerance)
    return finished


def risk_judged(
    problem: Stationary, iterate: Iterate, swept: Swept, tolerance: float, resolvent: Resolvent | None = None
) -> Iterate:
    """Makes the next iterate of a backup of this one: its residual, its certified error, whether it is done.

    Args:
        problem: The fixed-point problem.
        iterate: The iterate that was swept.
        swept: What came of it.
        tolerance: Error of V to reach, relative to max(1, max|V|).
        resolvent: (I - G)^-1 at the iterate, if at hand; else made only where the residual, magnified as it was when
            last looked at, is small enough.

    Raises:
        IncompatibleMethod: No finite value exists.
    """
    v, target = swept.v.detach(), tolerance * max(1.0, swept.largest)
    stalled = iterate.residual <= swept.residual <= _rounding(v, _largest_terms(problem))
    done = replace(iterate, v=v, num_steps=iterate.num_steps + 1, residual=swept.residual, done=stalled)
    if resolvent is None:
        if swept.residual * iterate.longest > target and not stalled:
            return replace(done, certified_error=math.inf)
        q, v = problem.backup(iterate.v)
        resolvent = problem.resolvent(problem.chain(q, v, iterate.v), v)
    error, longest = _certificate(problem, iterate.v, swept, resolvent, target)
    if stalled and error == math.inf and (reason := problem.why_endless):  # so far out that a step is below rounding
        raise IncompatibleMethod(reason)
    return replace(done, certified_error=error, longest=longest, done=stalled or error <= target)


def _certificate(
    problem: Stationary, before: Tensor, swept: Swept, resolvent: Resolvent, target: float
) -> tuple[float, float]:
    """The error of a backup, reward units, and the expected time to the end, steps; exact where that decides."""
    terms = _largest_terms(problem)
    for rtol in (ROUGH, EXACT):
        time = _solved(resolvent, torch.ones_like(before), rtol=rtol)
        ends = bool((time > 0.0).all() and torch.isfinite(time).all())
        longest = max(1.0, float(time.max())) if ends else math.inf
        error = enclosed_error(
            lambda x: problem.backup(x)[1], before, swept.v, time, rounding=lambda x: _rounding(x, terms)
        )
        if math.isfinite(error) or swept.residual * longest > target:
            break
    return error, longest


def _solved(resolvent: Resolvent, b: Tensor, *, rtol: float) -> Tensor:
    """Solves (I - G) x = b; without a warning where it fails, since what comes of x is verified."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        return resolvent.solve(b, rtol=rtol)


def _moved(problem: Stationary, v: Tensor, direction: Tensor, residual: float) -> Tensor | None:
    """Goes along Newton's direction: all the way where B is convex, else as far as the residual falls, if it does."""
    if problem.reading.is_convex:
        return v + direction
    length = 1.0
    for _ in range(_HALVINGS):
        moved = v + length * direction
        if float((problem.backup(moved)[1] - moved).abs().max()) <= (1.0 - length / 4.0) * residual:
            return moved
        length /= 2.0
    return None


def _rounding(x: Tensor, terms: float) -> float:
    """Bounds the rounding of a backup of x, reward units: some eps of what is added up."""
    return 16 * torch.finfo(x.dtype).eps * (float(x.abs().amax()) + terms)


def _largest_terms(problem: Stationary) -> float:
    """What a backup adds to a value at most, reward units: rewards, and the nats of a log-sum-exp over actions."""
    step = problem.tables.step(0)
    bounds = [part.detach().aminmax() for part in (step.rewards, step.entry_rewards) if part is not None]
    temperature = problem.tables.temperature_value
    nats = temperature if temperature < HIGH_TEMPERATURE else 0.0  # above, log-sum-exps are computed next to one
    return nats + sum(max(-float(low), float(high)) for low, high in bounds)
