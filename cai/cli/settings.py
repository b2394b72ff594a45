"""`--set key=value`: hyper-parameters of a method, option objects included, without running any code of the user's.

    --set batch_size=64   --set learning_rate=1e-3   --set "body=MLPBody(hidden=(64, 64))"   --set device=cuda

A value is a Python literal, a call of an option object of `cai.methods` or `cai.factors` with such values, or text.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from cai import factors, methods
from cai.cli.errors import CommandError, one_line
from cai.cli.options import WORDS, check_options, did_you_mean, split_option
from cai.inference import AbstractMethod

#: What other options of the command line set.
RESERVED = {"num_steps": "--num-steps", "num_envs": "--num-envs"}


def parse_settings(texts: Iterable[str], method: type) -> dict[str, Any]:
    """Reads hyper-parameters of a method.

    Args:
        texts: Each `key=value`.
        method: The class of the method, a dataclass.

    Raises:
        CommandError: What is no hyper-parameter, or no value: which, and what was meant perhaps.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        key, value = split_option(text, "--set")
        if key in RESERVED:
            raise CommandError(f"--set {key}: give {RESERVED[key]}")
        if key in settings:
            raise CommandError(f"--set {key} is given twice")
        settings[key] = _value(value, f"--set {key}")
    check_options(settings, method, (), method.__name__)
    return settings


def made(cls: type, where: str, positional: Sequence[Any], named: dict[str, Any]) -> Any:
    """Makes a method or an option object.

    Raises:
        CommandError: It refuses these arguments.
    """
    check_options(named, cls, (), cls.__name__)
    try:
        return cls(*positional, **named)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{where}: {cls.__name__}: {one_line(error)}") from error


def _value(text: str, where: str) -> Any:
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return text
    return _read(tree, where)


def _read(node: ast.expr, where: str) -> Any:
    """Reads a piece of Python that is a literal, a word, or a call of an option object."""
    if isinstance(node, ast.Call):
        return _called(node, where)
    if isinstance(node, ast.Name | ast.Attribute):
        return _word(ast.unparse(node), where)
    if isinstance(node, ast.Tuple | ast.List):
        items = [_read(item, where) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise CommandError(f"{where}: {ast.unparse(node)!r} is neither a literal nor an option object") from None


def _word(text: str, where: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if text.rpartition(".")[2] in _option_classes():
        raise CommandError(f"{where}: {text} is an option object; write {text}()")
    return text


def _called(node: ast.Call, where: str) -> Any:
    name = re.sub(r"^(cai\.)?(methods|factors)\.", "", ast.unparse(node.func))
    classes = _option_classes()
    if name not in classes:
        near = did_you_mean(name, classes) or f"there are {', '.join(sorted(classes))}"
        raise CommandError(f"{where}: no option object {name!r}; {near}")
    if any(isinstance(item, ast.Starred) for item in node.args) or any(word.arg is None for word in node.keywords):
        raise CommandError(f"{where}: {name} takes its arguments one by one, without stars")
    named = {str(word.arg): _read(word.value, where) for word in node.keywords}
    return made(classes[name], where, [_read(item, where) for item in node.args], named)


def _option_classes() -> dict[str, type]:
    """The option objects: what `cai.methods` and `cai.factors` export that is a dataclass and no method."""
    exported = {name: getattr(room, name) for room in (factors, methods) for name in room.__all__}
    return {
        name: thing
        for name, thing in exported.items()
        if dataclasses.is_dataclass(thing)
        and isinstance(thing, type)
        and not issubclass(thing, AbstractMethod)
        and not inspect.isabstract(thing)
    }
