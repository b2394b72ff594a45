"""`infer`: one call for every method."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from cai.inference.callbacks import AbstractCallback, StopInference, read_checkpoint
from cai.inference.interrupts import HeldInterrupts
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior

_LOG = logging.getLogger(__name__)


def infer(
    graph: Any,
    method: AbstractMethod,
    *,
    seed: int | None = None,
    callbacks: Sequence[AbstractCallback] = (),
    resume: str | os.PathLike | None = None,
) -> Posterior:
    """Answers a graph by a method.

    Args:
        graph: A `TrajectoryGraph`, or a `FactorGraph` for the methods that accept one.
        method: The routine and its hyper-parameters, such as `cai.SoftValueIteration()`.
        seed: Seed of everything random in the method; exact methods need none.
        callbacks: Told of the start, of each step and of the end, such as `cai.ProgressBar()`.
        resume: A file that `cai.Checkpoint` wrote in an interrupted run of the same method on the same graph.

    Returns:
        The posterior.

    A method that learns has an answer at any time: an interrupt (control-C), or a callback that raises `StopInference`,
    ends the work after the step in hand, and what was learned so far is returned. Where an error ends it, the answer so
    far is in the error's `posterior` attribute.

    Raises:
        IncompatibleMethod: The graph lacks what the method needs, or the answer does not exist.
        NonFinite: A message, a loss, a reward or a state became NaN or infinite.
        ValueError: Something that is not a method; a checkpoint of another run.
    """
    if not isinstance(method, AbstractMethod):
        hint = f"; did you mean {method.__name__}()?" if isinstance(method, type) else ""
        raise ValueError(f"infer: expected a method such as cai.SoftValueIteration(), got {method!r}{hint}")
    if not isinstance(callbacks, Sequence) or not all(isinstance(c, AbstractCallback) for c in callbacks):
        raise ValueError(
            f"infer: callbacks must be a list of callbacks, such as [cai.ProgressBar()], got {callbacks!r}"
        )
    started = time.perf_counter()
    method = method.for_graph(graph)
    method.accepts(graph)
    state = method.init(graph, seed)
    try:
        if resume is not None:
            state = method.restore(state, read_checkpoint(resume, graph, method))
        for callback in callbacks:
            callback.on_start(graph, method)
            if resume is not None:
                callback.on_resume()
        posterior = _worked(graph, method, state, callbacks, started)
        for callback in callbacks:
            callback.on_end(posterior)
    finally:
        method.close(state)
    return posterior


def _worked(
    graph: Any, method: AbstractMethod, state: Any, callbacks: Sequence[AbstractCallback], started: float
) -> Posterior:
    """Steps until the work is done or stopped, and gives the answer."""
    try:
        try:
            with HeldInterrupts(method.is_anytime) as interrupts:
                while not method.is_done(state):
                    state = method.step(graph, state)
                    _tell(callbacks, method.progress(state, time.perf_counter() - started))
                    interrupts.raise_if_any()
        except (StopInference, KeyboardInterrupt) as reason:
            if not method.is_anytime:
                raise
            _LOG.warning("%s stopped early: %s", type(method).__name__, str(reason) or "interrupted")
        return method.posterior(graph, state, time.perf_counter() - started)
    except BaseException as error:
        for callback in callbacks:
            callback.on_end(None)
        if method.is_anytime and isinstance(error, Exception):
            _keep(error, method.posterior(graph, state, time.perf_counter() - started))
        raise


def _tell(callbacks: Sequence[AbstractCallback], progress: Progress) -> None:
    """Tells all callbacks of a step, also those that come after one that wants to stop."""
    reasons = []
    for callback in callbacks:
        try:
            callback.on_step(progress)
        except StopInference as reason:
            reasons.append(reason)
    if reasons:
        raise reasons[0]


def _keep(error: Exception, posterior: Posterior) -> None:
    """Hands what was learned before an error to whoever catches it."""
    error.posterior = posterior  # type: ignore[attr-defined]
    error.add_note("what was learned so far is this error's `posterior`")
