"""`--out DIR`: the posterior, a summary in JSON, and pictures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cai.cli.answer import Answer, Missing
from cai.cli.errors import CommandError, complain, one_line
from cai.cli.vectors import VectorAnswer
from cai.data import serialization

if TYPE_CHECKING:
    from cai.cli.progress import Work

_DPI = 150


@contextmanager
def output_directory(path: Path | None) -> Iterator[None]:
    """Makes sure that a directory can be written to; takes it away again if it was new and the work failed.

    Raises:
        CommandError: It cannot be made or written to.
    """
    made = path is not None and not path.exists()
    if path is not None:
        _check_writable(path)
    try:
        yield
    except BaseException:
        if made and path is not None:
            with suppress(OSError):  # it is not empty: something was written after all
                path.rmdir()
        raise


def _check_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise CommandError(f"--out {path}: cannot write there ({error.strerror or error})") from error


def write_all(path: Path, problem: dict[str, Any], answer: Answer | VectorAnswer, work: Work) -> list[str]:
    """Writes everything.

    Args:
        path: The directory.
        problem: What was asked, for the summary.
        answer: The answer.
        work: Is told of what is being done.

    Returns:
        The names of the files written.

    Raises:
        CommandError: The disk is full, or the directory is gone.
    """
    try:
        work.enter("saving the posterior")
        answer.posterior.save(path / "posterior.safetensors")
        pictures = _draw(path, answer, work)
        files = ["posterior.safetensors", "summary.json", *pictures]
        text = json.dumps(summary(problem, answer, files), indent=2, allow_nan=False) + "\n"
        serialization.write_atomically(path / "summary.json", text.encode())
    except OSError as error:
        raise CommandError(f"--out {path}: writing failed ({error.strerror or one_line(error)})") from error
    return files


def summary(problem: dict[str, Any], answer: Answer | VectorAnswer, files: list[str]) -> dict[str, Any]:
    """Makes the summary; a number that is missing or infinite is null.

    Args:
        problem: What was asked.
        answer: The answer.
        files: The files beside the summary.
    """
    import cai

    graph, stats = answer.posterior.graph, answer.posterior.stats
    return {
        "cai_version": cai.__version__,
        **problem,
        **(_vector_facts(answer) if isinstance(answer, VectorAnswer) else _table_facts(answer)),
        "horizon": graph.horizon,
        "discount": graph.discount,
        "temperature": float(graph.temperature),
        "log_evidence_nats": _plain(answer.numbers.log_evidence),
        "gain": _plain(answer.numbers.gain),
        "is_bound": answer.numbers.is_bound,
        "expected_return": _plain(answer.numbers.expected_return),
        "entropy_nats": _plain(answer.numbers.entropy),
        "stats": {
            "num_steps": stats.num_steps,
            "converged": stats.converged,
            "residual": _plain(stats.residual),
            "certified_error": _plain(stats.certified_error),
            "seconds": stats.seconds,
            "estimates": list(stats.estimates),
        },
        "files": files,
    }


def _table_facts(answer: Answer) -> dict[str, Any]:
    return {"num_states": answer.num_states, "num_actions": answer.num_actions}


def _vector_facts(answer: VectorAnswer) -> dict[str, Any]:
    size = dict(zip(("state_size", "action_size"), answer.sizes, strict=True))
    start = None if isinstance(answer.start, Missing) else answer.start.tolist()
    policies = [
        {"t": one.t, "gain": one.gain.tolist(), "offset": one.offset.tolist(), "std_dev": one.deviation.tolist()}
        for one in answer.feedbacks
    ]
    return {**size, "start": start, "value_at_start": _plain(answer.value), "policies": policies}


def _plain(value: float | Missing) -> float | None:
    return None if isinstance(value, Missing) or not np.isfinite(value) else float(value)


def _draw(path: Path, answer: Answer | VectorAnswer, work: Work) -> list[str]:
    if find_spec("matplotlib") is None:
        complain("no pictures without matplotlib: pip install cai[plots]")
        return []
    work.enter("drawing")
    pictures = _tubes(answer) if isinstance(answer, VectorAnswer) else _maps(answer)
    for name, figure in pictures.items():
        figure.canvas.print_figure(path / name, dpi=_DPI)
    return sorted(pictures)


def _maps(answer: Answer) -> dict[str, Any]:
    from cai import plots

    pictures = {"policy.png": plots.policy_map(answer.posterior).figure}
    if not isinstance(answer.values, Missing):
        pictures["value.png"] = plots.value_map(answer.posterior).figure
    if not isinstance(answer.marginals, Missing):
        pictures["marginals.png"] = plots.marginals_over_time(answer.posterior)
    return pictures


def _tubes(answer: VectorAnswer) -> dict[str, Any]:
    from cai import plots

    if isinstance(answer.tube, Missing) or answer.posterior.graph.horizon is None:
        return {}
    return {"marginals.png": plots.tubes(answer.posterior)}
