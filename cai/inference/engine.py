"""`infer`: one call for every method."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from cai.inference.callbacks import AbstractCallback, read_checkpoint
from cai.inference.method import AbstractMethod
from cai.inference.posterior import Posterior


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

    Raises:
        IncompatibleMethod: The graph lacks what the method needs, or the answer does not exist.
        NonFinite: A message became NaN or infinite.
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
    method.accepts(graph)
    state = method.init(graph, seed)
    if resume is not None:
        state = method.restore(state, read_checkpoint(resume, graph, method))
    for callback in callbacks:
        callback.on_start(graph, method)
    try:
        while not method.is_done(state):
            state = method.step(graph, state)
            progress = method.progress(state, time.perf_counter() - started)
            for callback in callbacks:
                callback.on_step(progress)
        posterior = method.posterior(graph, state, time.perf_counter() - started)
    except BaseException:
        for callback in callbacks:
            callback.on_end(None)
        raise
    for callback in callbacks:
        callback.on_end(posterior)
    return posterior
