"""`--option key=value`."""

from __future__ import annotations

from typing import Any

import pytest

from cai.cli.errors import CommandError
from cai.cli.options import check_options, did_you_mean, parse_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("no", False),
        ("none", None),
        ("8x8", "8x8"),
        ("'true'", "true"),
        ("[1, 2]", [1, 2]),
        ("(0.0, 1.0)", (0.0, 1.0)),
        ("{(1, 3): -1.0}", {(1, 3): -1.0}),
        ("", ""),
        ("a=b", "a=b"),
        ("[1,", "[1,"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_values(text: str, value: Any) -> None:
    parsed = parse_options([f"key={text}"])["key"]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("text", ["key", "=3", "two words=3", "1=2"])
def test_what_is_no_option(text: str) -> None:
    with pytest.raises(CommandError, match="key=value"):
        parse_options([text])


def takes_two(first: int = 1, *, second: int = 2) -> None:
    """Stands for something with options."""


def takes_all(**options: int) -> None:
    """Stands for something with any options."""


def test_keys() -> None:
    check_options({"first": 1, "third": 3}, takes_two, ("third",), "it")
    check_options({"anything": 1}, takes_all, (), "it")
    with pytest.raises(CommandError, match=r"it has no option 'secnd'; did you mean second\?"):
        check_options({"secnd": 1}, takes_two, (), "it")
    with pytest.raises(CommandError, match="its options are first, second"):
        check_options({"zzz": 1}, takes_two, (), "it")
    with pytest.raises(CommandError, match="it takes none"):
        check_options({"zzz": 1}, lambda: None, (), "it")


def test_suggestions_ignore_case_and_stop_at_three() -> None:
    assert did_you_mean("TAXI", ["Taxi-v4", "gridworld"]) == "did you mean Taxi-v4?"
    assert did_you_mean("lake", ["lake1", "lake2", "lake3", "lake4"]).count("lake") == 3
    assert did_you_mean("zebra", ["quilt"]) == ""
