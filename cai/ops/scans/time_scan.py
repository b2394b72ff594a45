"""Backward messages by a scan over time, equal to the loop of `cai.ops.messages` up to rounding.

Time is cut into stretches. Where the tables are the same at every step of a stretch, x_t = M x_{t+1} goes by powers of
M (`power_vectors`): S^3 log T + S^2 T operations in some log2 T products. Where they vary, by odd-even recursion on the
stack of all M_t (`suffix_vectors`): S^3 T operations in some 2 log2 T rounds. Known states end a stretch of equal
tables, and are rows of -inf in a stack.

Once all V_{t+1} of a stretch are known, its Q_t are one product, and V_t is made of them as the loop makes it, so that
policies sum to one as there.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from cai.ops.messages import Messages, check_messages
from cai.ops.scans.scan import power_vectors, suffix_vectors
from cai.ops.scans.step_matrices import StepMatrices
from cai.ops.scans.stretches import Stretch, has_own_dynamics, known_states, masked_stack, stacked_steps, stretches

#: Copies of a table or a stack of matrices that its product holds: exponentials, maxima, what is cut out, the product.
_COPIES = 4


class ScanSweep:
    """A backward pass by scans, one stretch after the other.

    Args:
        form: The recursion in matrices.

    Attributes:
        num_steps: Time steps done, of T.
    """

    def __init__(self, form: StepMatrices) -> None:
        tables = form.tables
        assert tables.horizon is not None
        self._form = form
        self._left = stretches(tables, form.size, policy_varies=form.varies)
        self._v = [tables.masked(tables.terminal_values, tables.horizon)[None]]  # the last stretch first
        self._q: list[Tensor] = []
        self.num_steps = 0

    @property
    def is_done(self) -> bool:
        """Whether all time steps are done."""
        return not self._left

    def advance(self, seconds: float = math.inf) -> None:
        """Does what remains, or the stretches that are begun in this time."""
        stop = time.perf_counter() + seconds
        while self._left:
            stretch = self._left.pop()
            messages = _passed(self._form, stretch, self._v[-1][0])
            self._q.append(messages.q)
            self._v.append(messages.v)
            self.num_steps += stretch.num_steps
            if time.perf_counter() > stop:
                break

    def messages(self) -> Messages:
        """Puts a finished pass in order of time.

        Raises:
            NonFinite: A message is NaN or `+inf`; the message names the time step and the state.
        """
        v = torch.cat(self._v[::-1])
        check_messages(v)
        return Messages(torch.cat(self._q[::-1]), v)


def scan_bytes(form: StepMatrices) -> int:
    """Estimates the bytes of a scan, messages aside: matrices of the longest stretch, all of them if gradients flow."""
    tables, size = form.tables, form.size
    pieces = stretches(tables, size, policy_varies=form.varies)
    step = tables.step(0)
    learned = (step.transitions.values, step.rewards, step.prior, tables.terminal_values, tables.temperature)
    learns = torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in learned)
    of_pieces = [_numbers(form, piece) for piece in pieces]
    return (sum(of_pieces) if learns else max(of_pieces)) * tables.terminal_values.element_size()


def _numbers(form: StepMatrices, stretch: Stretch) -> int:
    """Counts the numbers that a stretch holds: dense tables and matrices, each with the copies of a product."""
    tables, size = form.tables, form.size
    pairs = tables.num_states * tables.num_actions
    if stretch.is_constant:
        num_tables, num_matrices = 1, stretch.num_steps.bit_length()
    else:
        num_tables = stretch.num_steps if has_own_dynamics(tables, stretch) else 1
        num_matrices = 2 * stretch.num_steps
    return _COPIES * (num_tables * pairs * size + num_matrices * size**2 + stretch.num_steps * pairs)


def _passed(form: StepMatrices, stretch: Stretch, end: Tensor) -> Messages:
    """Takes V at the end of a stretch, `[S]`, to Q and V of all its steps."""
    tables = form.tables
    step, allowed = stacked_steps(tables, stretch), known_states(tables, stretch)
    through, last = form.through(step), form.message(end)
    following = last[None]
    if stretch.num_steps > 1:
        matrices = form.matrix(step, through, stretch.times)
        following = torch.cat([_between(form, stretch, matrices, allowed, last), following])
    q = form.q(step, form.apply(through, following))
    v = form.v(step, q, stretch.times)
    if tables.has_exits:
        stays = end if allowed is None else torch.where(_possible_later(allowed), end, -torch.inf)
        v = torch.where(tables.terminal, stays, v)
        q = torch.where(tables.terminal[:, None], v[..., None], q)
    return Messages(q, v if allowed is None else torch.where(allowed, v, -torch.inf))


def _between(form: StepMatrices, stretch: Stretch, matrices: Tensor, allowed: Tensor | None, last: Tensor) -> Tensor:
    """Computes the messages at all steps of a stretch but the first, `[n - 1, K]`, from the one at its end."""
    if stretch.is_constant:
        return power_vectors(form.semiring, matrices, last, stretch.num_steps - 1)
    stack = masked_stack(form.semiring, matrices, stretch.num_steps, allowed)
    return suffix_vectors(form.semiring, stack[1:], last)


def _possible_later(allowed: Tensor) -> Tensor:
    """Says which states the evidence allows at all later steps, `[n, S]`, bool."""
    shifted = torch.cat([allowed[1:], torch.ones_like(allowed[:1])])
    return shifted.flip(0).to(torch.uint8).cumprod(0).flip(0).to(torch.bool)
