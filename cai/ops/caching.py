"""Attributes computed once, without losing gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import torch

Value = TypeVar("Value")


class grad_cached_property(Generic[Value]):  # noqa: N801  (a descriptor, named as functools' is)
    """`functools.cached_property`, kept apart for gradients on and off, and for inference mode.

    What is first computed under `torch.no_grad` has no gradient, and must not be handed out later where one is wanted;
    what is computed in inference mode can stand in no differentiable computation at all.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._names = (f"_{name}_without_grad", f"_{name}_with_grad", f"_{name}_in_inference")

    @overload
    def __get__(self, instance: None, owner: type) -> grad_cached_property[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        name = self._names[2 if torch.is_inference_mode_enabled() else torch.is_grad_enabled()]
        if name not in instance.__dict__:
            instance.__dict__[name] = self._compute(instance)
        return instance.__dict__[name]
