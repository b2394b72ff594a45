"""Copies of a user's environment, so that learning leaves the environment itself alone.

gymnasium writes down how an environment was made, wrappers included: its spec. Copies are made anew from that. Where
there is no spec, a wrapper that cannot be made again from it, or something that was set on the environment later, they
are deep copies; where these fail too, one copy is the environment itself, and several are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

#: How many steps tell what of an environment changes as it runs.
_NUM_STEPS = 3


def maker_of(env: gymnasium.Env, num_envs: int) -> Callable[[], gymnasium.Env]:
    """Gives what makes a copy of an environment.

    Deep copies share what an environment holds outside of the process, such as a connection: register such a one, so
    that each copy makes its own. Of what was set on the environment after it was made, numbers and words are seen.

    Args:
        env: The environment.
        num_envs: Number of copies that are wanted.

    Raises:
        ValueError: Several copies are wanted, and there is no way to make them: the reasons.
    """
    ways: list[Callable[[], gymnasium.Env]] = [partial(copy.deepcopy, env)]
    if env.spec is not None:
        ways.insert(0, partial(_from_spec, windowless(env.spec)))
    reasons = []
    for make in ways:
        reason = _why_not(make, env)
        if reason is None:
            return make
        reasons.append(reason)
    if num_envs == 1:
        return lambda: env
    raise ValueError(
        f"num_envs: {env} cannot be copied ({'; '.join(reasons)}). Register it with gymnasium.register, make it with "
        "its options by gymnasium.make, with wrappers that inherit from gymnasium.utils.RecordConstructorArgs, or take "
        "num_envs=1"
    )


def is_as_made(env: gymnasium.Env) -> bool:
    """Whether an environment is what its spec makes."""
    return env.spec is not None and _why_not(partial(_from_spec, windowless(env.spec)), env) is None


def windowless(spec: EnvSpec) -> EnvSpec:
    """Gives a spec without a window for people to watch: copies need none."""
    if spec.kwargs.get("render_mode") != "human":
        return spec
    spec = copy.deepcopy(spec)
    del spec.kwargs["render_mode"]
    return spec


def _from_spec(spec: EnvSpec) -> gymnasium.Env:
    return gymnasium.make(spec, disable_env_checker=True)  # worlds check for themselves


def _why_not(make: Callable[[], gymnasium.Env], env: gymnasium.Env) -> str | None:
    """Makes a copy, to see whether it can be made, and is the same."""
    try:
        made = make()
    except Exception as error:  # whatever an environment raises
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    try:
        if made.observation_space != env.observation_space or made.action_space != env.action_space:
            return "a new one has other spaces"
        changed = _set_later(made, env)
        return f"a new one lacks what was set later: {', '.join(changed)}" if changed else None
    finally:
        made.close()


def _set_later(made: gymnasium.Env, env: gymnasium.Env) -> list[str]:
    """Names what an environment has otherwise than a copy, and what does not change as the copy runs."""
    own, new = _settings(env), _settings(made)
    changed = [key for key, value in new.items() if own.get(key, value) != value]
    if not changed:
        return []
    made.action_space.seed(0)
    try:
        made.reset(seed=0)
        for _ in range(_NUM_STEPS):
            made.step(made.action_space.sample())
    except Exception:  # the copy's errors are for the run to report
        return []
    later = _settings(made)
    return [f"{key[1]} = {own[key]!r}" for key in changed if later.get(key) == new[key]]


def _settings(env: gymnasium.Env) -> dict[tuple[str, str], float | str]:
    """Numbers and words that an environment and its wrappers hold, by class and name."""
    found: dict[tuple[str, str], float | str] = {}
    layer: gymnasium.Env | None = env
    while layer is not None:
        for name, value in vars(layer).items():
            if isinstance(value, int | float | str | np.integer | np.floating) and not isinstance(value, bool):
                found[type(layer).__name__, name] = value if isinstance(value, str) else float(value)
        layer = layer.env if isinstance(layer, gymnasium.Wrapper) else None
    return found
