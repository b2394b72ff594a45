"""How a command ends when something is wrong: one line on standard error, and an exit code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

BAD_INPUT = 2
INTERRUPTED = 130


class CommandError(Exception):
    """What the user gave cannot be used; the message says why, in one line."""


def one_line(error: BaseException | str) -> str:
    """Puts a message on one line."""
    return " ".join(str(error).split())


def complain(message: str) -> None:
    """Writes one line to standard error."""
    typer.echo(f"cai: {one_line(message)}", err=True)


@contextmanager
def speaking_errors() -> Iterator[None]:
    """Turns what the user can do something about into one line and an exit code; anything else is a bug and passes.

    Raises:
        typer.Exit: With code 2 for bad input, 130 for an interrupt.
    """
    try:
        with _one_line_warnings():
            yield
    except KeyboardInterrupt:
        complain("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except CommandError as error:
        complain(str(error))
        raise typer.Exit(BAD_INPUT) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):  # what torch raises for it
            raise
        complain(f"not enough memory for this problem ({error})")
        raise typer.Exit(BAD_INPUT) from None


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Shows each warning as one line without a place in the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *_args, **_options: complain(f"warning: {message}")
        yield
