"""Scans over time: what a loop of T steps computes, in some log2 T rounds of independent products.

A product that is associative may be taken in any grouping. With elements e_0, ..., e_{T-1} and a product *,

    associative_scan    e_0, e_0 * e_1, ..., e_0 * ... * e_{T-1}      (reverse: e_t * ... * e_{T-1} for each t)
    suffix_actions      x_t = e_t . x_{t+1} for elements that act on something smaller than themselves, from a given x_T
    suffix_vectors      the same of matrices over a semiring that act on vectors, x_t = A_t x_{t+1}
    power_vectors       x_t = A x_{t+1}, the same matrix at each step

by odd-even recursion: multiply neighbours, solve the problem of half the length, and fill the other half in. The first
takes fewer than 2 T products. The second never needs a product of elements that reaches x_T, so that fewer than T
products and T actions are enough; the last squares: with P = A^k and a block X of k vectors, P [P, X] is A^2k and the
next k vectors, some log2 T products in all.

Source: Blelloch (1990); Hassan, Särkkä and García-Fernández (2021) for the messages of hidden Markov models; Särkkä and
García-Fernández (2021) for Gaussian ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from cai.ops.semirings import MatrixSemiring

Elements = TypeVar("Elements")

#: What a call costs beside its arithmetic, and an exponential, in multiplications of a matrix product on a CPU.
_CALL, _EXPONENTIAL = 250_000, 12


def associative_scan(
    combine: Callable[[Elements, Elements], Elements], elements: Elements, *, reverse: bool = False
) -> Elements:
    """Computes all prefix products e_0 * ... * e_t of an associative product.

    Fewer than 2 T products in 2 log2 T calls of `combine`; differentiable where `combine` is.

    Args:
        combine: The product, of two stacks of elements: earlier times left, later times right. It must be associative.
        elements: A tensor `[T, ...]`, or a dataclass of such.
        reverse: Gives the suffix products e_t * ... * e_{T-1} instead.

    Returns:
        As `elements`: the product that ends (or begins) at each time.
    """
    if not reverse:
        return _prefixes(combine, elements)
    flipped = _prefixes(lambda later, earlier: combine(earlier, later), _each(lambda x: x.flip(0), elements))
    return _each(lambda x: x.flip(0), flipped)


def _prefixes(combine: Callable[[Elements, Elements], Elements], elements: Elements) -> Elements:
    length = _length(elements)
    if length < 2:
        return elements
    pairs = combine(_each(lambda x: x[: length - 1 : 2], elements), _each(lambda x: x[1::2], elements))
    at_odd = _prefixes(combine, pairs)
    first = _each(lambda x: x[:1], elements)
    if length == 2:
        return _each(lambda a, b: torch.cat([a, b]), first, at_odd)
    between = _each(lambda x: x[: (length - 1) // 2], at_odd)
    at_even = combine(between, _each(lambda x: x[2::2], elements))
    return _each(lambda a, b, c: _interleaved(torch.cat([a, b]), c), first, at_even, at_odd)


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    """Puts two stacks together, taking turns; `even` may be one longer."""
    both = torch.stack([even[: len(odd)], odd], 1).flatten(0, 1)
    return torch.cat([both, even[len(odd) :]]) if len(even) > len(odd) else both


def _each(f: Callable[..., Tensor], *elements: Elements) -> Elements:
    """Applies a function to the tensors of elements, field by field."""
    first = elements[0]
    if isinstance(first, Tensor):
        return f(*elements)  # type: ignore[return-value]
    if not is_dataclass(first) or isinstance(first, type):
        raise ValueError(f"associative_scan: expected a tensor or a dataclass of tensors, got {type(first).__name__}")
    changes = {part.name: _each(f, *(getattr(x, part.name) for x in elements)) for part in fields(first)}
    return replace(first, **changes)


def _length(elements: object) -> int:
    if isinstance(elements, Tensor):
        return len(elements)
    if not is_dataclass(elements) or isinstance(elements, type):
        raise ValueError(
            f"associative_scan: expected a tensor or a dataclass of tensors, got {type(elements).__name__}"
        )
    lengths = {_length(getattr(elements, part.name)) for part in fields(elements)}
    if len(lengths) != 1:
        raise ValueError(f"associative_scan: expected parts of one length, got lengths {sorted(lengths)}")
    return lengths.pop()


def suffix_vectors(semiring: MatrixSemiring, matrices: Tensor, end: Tensor) -> Tensor:
    """Computes x_t = A_t x_{t+1} for all t, over a semiring.

    Args:
        semiring: How matrices are multiplied.
        matrices: A_t, `[T, K, K]`.
        end: x_T, `[K]`.

    Returns:
        x_0, ..., x_{T-1}, `[T, K]`.
    """
    return suffix_actions(
        semiring.matmul, lambda some, vectors: _applied(semiring, some, vectors), matrices, end, len(matrices)
    )


def suffix_actions(
    combine: Callable[[Elements, Elements], Elements],
    act: Callable[[Elements, Tensor], Tensor],
    elements: Elements,
    end: Tensor,
    num_steps: int,
) -> Tensor:
    """Computes x_t = e_t . x_{t+1} for all t, where (e * f) . x = e . (f . x).

    Args:
        combine: The product e * f of two stacks of elements, earlier times left.
        act: The action e . x of a stack of elements on a stack `[T, ...]`.
        elements: A tensor `[T, ...]` or a dataclass of such; `[1, ...]` where all elements are the same.
        end: x_T, of the shape that each x_t has.
        num_steps: T.

    Returns:
        x_0, ..., x_{T-1}, `[T, ...]`.
    """
    if num_steps < 2:
        return act(elements, end[None]) if num_steps else end.new_zeros(0, *end.shape)
    varies = _length(elements) > 1
    if num_steps % 2:
        last = act(_each(lambda x: x[-1:], elements), end[None])
        before = _each(lambda x: x[:-1], elements) if varies else elements
        return torch.cat([suffix_actions(combine, act, before, last[0], num_steps - 1), last])
    even, odd = (_each(lambda x, i=i: x[i::2], elements) if varies else elements for i in (0, 1))
    at_even = suffix_actions(combine, act, combine(even, odd), end, num_steps // 2)
    at_odd = act(odd, torch.cat([at_even[1:], end[None]]))
    return _interleaved(at_even, at_odd)


def _applied(semiring: MatrixSemiring, matrices: Tensor, vectors: Tensor) -> Tensor:
    return semiring.matmul(matrices, vectors[..., None]).squeeze(-1)


def power_vectors(semiring: MatrixSemiring, matrix: Tensor, end: Tensor, num_steps: int) -> Tensor:
    """Computes x_t = A x_{t+1} for all t, the same matrix at each step.

    Args:
        semiring: How matrices are multiplied.
        matrix: A, `[K, K]`.
        end: x_T, `[K]`.
        num_steps: T.

    Returns:
        x_0, ..., x_{T-1}, `[T, K]`.
    """
    if num_steps == 0:
        return end.new_zeros(0, *end.shape)
    power, block, size = matrix, semiring.matmul(matrix, end[:, None]), matrix.shape[-1]
    while block.shape[-1] < num_steps and _pays(block.shape[-1], num_steps, size):
        count = block.shape[-1]
        if 2 * count >= num_steps:  # the last round needs no further power
            block = torch.cat([block, semiring.matmul(power, block[:, : num_steps - count])], -1)
            continue
        both = semiring.matmul(power, torch.cat([power, block], -1))
        power, block = both[:, :size], torch.cat([block, both[:, size:]], -1)
    blocks, remaining = [block], num_steps - block.shape[-1]
    while remaining > 0:
        blocks.append(semiring.matmul(power, blocks[-1][:, :remaining]))
        remaining -= blocks[-1].shape[-1]
    return torch.cat(blocks, -1).mT.flip(0)


def _pays(count: int, num_steps: int, size: int) -> bool:
    """Whether squaring A^count costs less than the calls that blocks of twice as many vectors save."""
    if 2 * count >= num_steps:
        return True
    saved = num_steps / (2 * count) * (_CALL + _EXPONENTIAL * size**2)
    return size**3 + 3 * _EXPONENTIAL * size**2 <= saved
