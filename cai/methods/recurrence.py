"""The existence test of an infinite horizon without discount or terminal states: is there one gain for all states?"""

from __future__ import annotations

import numpy as np

from cai.errors import IncompatibleMethod
from cai.ops.infinite.chain_structure import period
from cai.ops.infinite.recurrent import Recurrent
from cai.ops.readings import FixedDynamics, PosteriorDynamics


def need_recurrence(problem: Recurrent, name: str) -> None:
    """Refuses a problem without gain and relative values, by its graph alone.

    Fixed dynamics needs one closed class among the states, a given policy one closed class of its chain. The posterior
    needs every state to be reachable from every other, and returns that are aperiodic (Perron and Frobenius).

    Args:
        problem: The problem.
        name: Who refuses.

    Raises:
        IncompatibleMethod: It has none; the message names two states of different classes, or the period.
    """
    where = f"{name}: on an undiscounted infinite horizon without terminal states"
    advice = "give a discount below 1 or a finite horizon"
    if not isinstance(problem.reading, FixedDynamics | PosteriorDynamics):
        raise IncompatibleMethod(
            f"{where} values grow without bound; SoftValueIteration, SoftPolicyIteration, PolicyEvaluation and "
            f"SumProduct give the gain a step; {advice}"
        )
    classes = problem.classes
    if (num_classes := int(classes.max()) + 1) > 1:
        here, there = _first(classes == 0), _first(classes == 1)
        chain = "the world" if problem.policy is None else "the policy's chain"
        raise IncompatibleMethod(
            f"{where} {chain} must have one closed class of states, and has {num_classes}: state {here} and state "
            f"{there} never reach each other, and each class has a gain of its own; {advice}, or take the classes one "
            "by one"
        )
    if isinstance(problem.reading, FixedDynamics):
        return
    if (classes < 0).any():
        raise IncompatibleMethod(
            f"{where} the posterior needs every state to be reachable from every other, and state "
            f"{_first(classes < 0)} is never reached from state {_first(classes == 0)}; {advice}, or ask "
            "SoftValueIteration"
        )
    if (length := period(problem.support)) > 1:
        raise IncompatibleMethod(
            f"{where} the posterior needs aperiodic returns, and here a state is revisited after multiples of {length} "
            f"steps only (period {length}), so that its messages never settle; {advice}, or ask SoftValueIteration"
        )


def _first(mask: np.ndarray) -> int:
    return int(np.flatnonzero(mask)[0])
