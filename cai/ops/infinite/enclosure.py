"""Certified errors without a contraction: an interval that holds a fixed point, proved by two backups.

Let B be monotone and continuous on vectors, n > 0 and c > 0. If

    B(V + c n) <= V + c n     and     B(V - c n) >= V - c n,

B maps the box [V - c n, V + c n] into itself, so a fixed point V* lies in it (Tarski 1955, or Brouwer), and then also
in [B(V - c n), B(V + c n)], which is smaller. Nothing else is asked of B: it may be neither convex nor concave, and
need not contract. To first order B(V + c n) = B V + c G n with G = dB/dV, and with n = (I - G)^-1 1, the time that the
chain G takes to end, both conditions read c >= |B V - V|: so c a little above the residual is tried first. Any n will
do for the proof, an inexact solution included. Every inequality is asked for with room for the rounding of a backup.

That V* is the only one is a property of B. A soft or hard Bellman backup, whatever its reading, is nonexpansive in the
maximum norm, and strictly so over some number of steps where a discount is below one, or where every policy that B may
choose comes to an end: then no second fixed point exists. At temperature zero and without discount, loops that cost
nothing can make several.

Source: Tarski (1955), theorem 1; Krasnoselskii (1964), for monotone operators between super- and subsolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

#: How far beyond the residual the box reaches: little where B is nearly linear across it, more where it bends.
_REACHES = (1.5, 6.0)


def enclosed_error(
    backup: Callable[[Tensor], Tensor],
    v: Tensor,
    backed_up: Tensor,
    time: Tensor,
    *,
    rounding: Callable[[Tensor], float],
) -> float:
    """Bounds |V* - B V| in the maximum norm, for a fixed point V* = B V* of a monotone operator near V.

    Args:
        backup: B, `[S]` to `[S]`, in reward units.
        v: V, `[S]`, finite.
        backed_up: B V, `[S]`.
        time: n, `[S]`: about (I - G)^-1 1.
        rounding: Bounds the rounding of B at a vector `[S]`, reward units.

    Returns:
        The bound, in reward units; infinite where the box proves nothing.
    """
    if not (torch.isfinite(time).all() and (time > 0.0).all()):
        return math.inf
    residual = float((backed_up - v).abs().max()) + 2.0 * rounding(v)
    for reach in _REACHES:
        margin = reach * residual * time
        above, below = v + margin, v - margin
        raised, lowered = backup(above) + rounding(above), backup(below) - rounding(below)
        if (raised <= above).all() and (lowered >= below).all():
            return float(torch.maximum(raised - backed_up, backed_up - lowered).max()) + rounding(v)
    return math.inf
