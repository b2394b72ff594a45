"""Which report a posterior gets: that of a finite world, or that of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from cai.cli.answer import Answer, read_answer
from cai.cli.report import print_report
from cai.cli.vector_report import print_vector_report
from cai.cli.vectors import VectorAnswer, has_vectors, read_vector_answer

if TYPE_CHECKING:
    from cai.inference import Posterior


def read_any_answer(posterior: Posterior) -> Answer | VectorAnswer:
    """Reads a posterior as plain numbers.

    Raises:
        CommandError: It answers a batch of graphs.
    """
    return read_vector_answer(posterior) if has_vectors(posterior.graph) else read_answer(posterior)


def print_answer(console: Console, title: str, answer: Answer | VectorAnswer) -> None:
    """Prints everything that there is to say of an answer.

    Args:
        console: Where to.
        title: The problem's name.
        answer: The answer.
    """
    if isinstance(answer, VectorAnswer):
        print_vector_report(console, title, answer)
    else:
        print_report(console, title, answer)
