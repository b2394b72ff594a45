"""A live gymnasium environment in the slots of a graph."""

from __future__ import annotations

from typing import Any

import gymnasium


class Environment:
    """An environment that can only be reset and stepped: the initial, dynamics and reward factor at once.

    Args:
        env: The environment; it is used as it is, not copied.
        why_not_tables: Why exact methods cannot have tables of it, for their error messages.

    Raises:
        ValueError: It is not a gymnasium environment.
    """

    def __init__(self, env: gymnasium.Env, *, why_not_tables: str = "it publishes no tables") -> None:
        if not isinstance(env, gymnasium.Env):
            raise ValueError(f"Environment: expected a gymnasium.Env, got {type(env).__name__}")
        self.env = env
        self.why_not_tables = why_not_tables

    @property
    def num_steps(self) -> None:
        """None: it is the same at every step."""
        return None

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Raises ValueError: an environment has no distribution to show."""
        raise ValueError(f"{self.env} can only be stepped; it has no distribution to show ({self.why_not_tables})")
