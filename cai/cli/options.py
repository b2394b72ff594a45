"""`--option key=value`: from text to keyword arguments."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from cai.cli.errors import CommandError

WORDS = {"true": True, "yes": True, "false": False, "no": False, "none": None, "null": None}


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Reads options: numbers, lists and quoted text as Python writes them, true and false in any case, else text.

    Raises:
        CommandError: No equals sign, no key, or a key given twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, value = split_option(text, "--option")
        if key in options:
            raise CommandError(f"--option {key} is given twice")
        options[key] = _parse_value(value)
    return options


def split_option(text: str, name: str) -> tuple[str, str]:
    """Splits `key=value`.

    Raises:
        CommandError: No equals sign or no key, in what the option `name` was given.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip().isidentifier():
        raise CommandError(f"{name} takes key=value, got {text!r}")
    return key.strip(), value.strip()


def check_options(options: dict[str, Any], accepted_by: Callable[..., Any], extra: Sequence[str], whose: str) -> None:
    """Refuses keys that a callable does not take.

    Args:
        options: What was given.
        accepted_by: Its keyword arguments are allowed; one with `**kwargs` allows everything.
        extra: Further allowed keys.
        whose: Whose options these are, for the message.

    Raises:
        CommandError: An unknown key, with the nearest known ones.
    """
    parameters = inspect.signature(accepted_by).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [*(parameter.name for parameter in parameters if parameter.name != "self"), *extra]
    for key in options:
        if key not in known:
            raise CommandError(f"{whose} has no option {key!r}; {did_you_mean(key, known) or _listing(known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Says which known names are near, or nothing where none is."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(by_lower[match] for match in near)}?" if near else ""


def _listing(known: Sequence[str]) -> str:
    return f"its options are {', '.join(known)}" if known else "it takes none"


def _parse_value(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
