"""The mean-field bound of a factor graph: how well independent variables can imitate its joint distribution.

    L(q) = sum_f E_q[log f] + sum_i H(q_i)  <=  log sum_x prod_f f(x),     q(x) = prod_i q_i(x_i)

Each expectation is a contraction of the factor's table with the q_i of its variables, exactly; no sample is drawn, and
no -inf met, provided that q gives no weight to a combination that a factor forbids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cai.ops.loopy import FactorGroups
from cai.ops.loopy.contractions import Linear


def mean_field_bound(factors: FactorGroups, log_q: Sequence[Tensor]) -> Tensor:
    """Computes L(q), nats, 0-dim; differentiable in q and in the tables.

    Args:
        factors: The factors.
        log_q: For each cardinality c the log-probabilities `[c, N]` of its variables; `-inf` where impossible.
    """
    total = factors.log_constant
    probs = [log_probs.exp() for log_probs in log_q]
    for variables, log_probs, weights in zip(factors.variables, log_q, probs, strict=True):
        used = weights > 0
        gain = torch.where(used, variables.log_unary, 0.0) - torch.where(used, log_probs, 0.0)
        total = total + (weights * gain).sum()
    spread = [variables.spread(weights) for variables, weights in zip(factors.variables, probs, strict=True)]
    for group in factors.groups:
        finite = torch.where(torch.isneginf(group.log_table), 0.0, group.log_table)
        total = total + Linear(finite).total(group.columns(spread)).sum()
    return total


def possible_values(factors: FactorGroups) -> list[Tensor]:
    """Finds the values that no factor rules out by itself, given what the others rule out (arc consistency).

    Returns:
        For each cardinality c a boolean `[c, N]`; a variable without any possible value has a column of False.
    """
    possible = [~torch.isneginf(variables.log_unary) for variables in factors.variables]
    while True:
        told = [torch.zeros_like(v.spread(p)) for v, p in zip(factors.variables, possible, strict=True)]
        for group, of_possible in zip(factors.groups, _possible_entries(factors, possible), strict=True):
            allowed = of_possible & ~torch.isneginf(group.log_table)
            for dim, column in enumerate(group.columns(told)):
                column.copy_(allowed.any(tuple(other for other in range(allowed.dim() - 1) if other != dim)))
        refused = [v.sum((~t).long()) > 0 for v, t in zip(factors.variables, told, strict=True)]
        if not any(bool((p & r).any()) for p, r in zip(possible, refused, strict=True)):
            return possible
        possible = [p & ~r for p, r in zip(possible, refused, strict=True)]


def forbidden_member(factors: FactorGroups, possible: Sequence[Tensor]) -> int | None:
    """Finds a factor that forbids a combination of values each of which is possible, if there is one.

    Args:
        factors: The factors.
        possible: For each cardinality c a boolean `[c, N]`.
    """
    for group, of_possible in zip(factors.groups, _possible_entries(factors, possible), strict=True):
        bad = (of_possible & torch.isneginf(group.log_table)).flatten(0, -2).any(0)
        if bad.any():
            return group.members[int(bad.nonzero()[0])]
    return None


def _possible_entries(factors: FactorGroups, possible: Sequence[Tensor]) -> Iterator[Tensor]:
    """Says which entries of the tables are of possible values only: `[c_1, ..., c_k, G]` for each group."""
    spread = [variables.spread(p) for variables, p in zip(factors.variables, possible, strict=True)]
    for group in factors.groups:
        whole, *others = group.columns(spread)
        for column in others:
            whole = whole.unsqueeze(-2) & column
        yield whole
