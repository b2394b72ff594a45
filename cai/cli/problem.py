"""From the words on the command line to a graph."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.cli.errors import CommandError, one_line
from cai.cli.options import check_options, did_you_mean

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from cai.graph import TrajectoryGraph

#: An environment has no temperature. A hundredth of a reward of 1 is soft where actions are about as good, and still
#: worth the walk over a hundred steps: the price of insisting on an action is paid at each.
ENVIRONMENT_TEMPERATURE = 0.01


class Prior(StrEnum):
    """The measure on actions that the policy is soft against."""

    UNIFORM = "uniform"
    FLAT = "flat"


@dataclass(frozen=True)
class Changes:
    """What the command line says about the problem; None where it says nothing.

    Attributes:
        horizon: Number of actions.
        infinite: Whether the horizon is infinite.
        temperature: Reward units.
        discount: In [0, 1].
        prior: The action prior.
    """

    horizon: int | None = None
    infinite: bool = False
    temperature: float | None = None
    discount: float | None = None
    prior: Prior | None = None

    def check(self) -> None:
        """Refuses what no problem can have, before anything is loaded.

        Raises:
            CommandError: A number out of its range, or a horizon both finite and infinite.
        """
        if self.infinite and self.horizon is not None:
            raise CommandError("--horizon and --infinite exclude each other")
        if self.horizon is not None and self.horizon < 1:
            raise CommandError(f"--horizon must be at least 1, got {self.horizon}")
        if self.temperature is not None and not 0.0 <= self.temperature < float("inf"):
            raise CommandError(f"--temperature must be a finite number of at least 0, got {self.temperature:g}")
        if self.discount is not None and not 0.0 <= self.discount <= 1.0:
            raise CommandError(f"--discount must be in [0, 1], got {self.discount:g}")

    def applied_to(self, graph: TrajectoryGraph) -> TrajectoryGraph:
        """Makes the graph that the command line asks for.

        Raises:
            CommandError: The graph cannot be changed so.
        """
        names = ("horizon", "temperature", "discount")
        changes: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.infinite:
            changes["horizon"] = None
        try:
            graph = graph.replace(**changes)
            return graph if self.prior is None else graph.replace(action_prior=_prior_of(graph, self.prior))
        except ValueError as error:
            raise CommandError(one_line(error)) from error


def build_graph(name: str, options: dict[str, Any], changes: Changes) -> TrajectoryGraph:
    """Builds the graph of an environment, of a model of the library, or of a model file.

    Raises:
        CommandError: There is no such thing, or it cannot be built with these options.
    """
    if is_model(name):
        return changes.applied_to(_load_model(name, options))
    return changes.applied_to(_from_gym(name, options))


def is_model(name: str) -> bool:
    """Says whether a problem is a model, of the library or in a file, and no environment."""
    import cai

    return name.endswith(".py") or name in cai.models()


def check_memory(graph: TrajectoryGraph) -> None:
    """Refuses a horizon whose values and policies do not fit into this machine, before it fills up.

    Raises:
        CommandError: They do not fit.
    """
    if graph.horizon is None or not hasattr(os, "sysconf"):
        return
    from cai.cli.vectors import has_vectors, vector_sizes

    if has_vectors(graph):
        num_states, num_actions = vector_sizes(graph)
        numbers_a_step = (num_states + num_actions + 1) ** 2
    else:
        num_states, num_actions = (getattr(graph.dynamics, name, 0) for name in ("num_states", "num_actions"))
        numbers_a_step = num_states * (num_actions + 2)
    needed = 8.0 * graph.horizon * numbers_a_step
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        sizes = f"{graph.horizon} steps of {num_states} states and {num_actions} actions"
        raise CommandError(f"{sizes} need {needed / 1e9:.0f} GB, this machine has {memory / 1e9:.0f}; try --infinite")


def _load_model(name: str, options: dict[str, Any]) -> TrajectoryGraph:
    import cai

    try:
        return cai.load_model(name, **options)
    except (ValueError, OSError) as error:
        raise CommandError(one_line(error)) from error
    except (Exception, SystemExit) as error:  # the file is the user's own: whatever it raises is news for its author
        raise CommandError(f"model {Path(name).stem!r} cannot be built: {kind_and_text(error)}") from error


def _from_gym(name: str, options: dict[str, Any]) -> TrajectoryGraph:
    import cai

    with closing(_make(name, _spec_of(name), options)) as env:
        limit = env.spec.max_episode_steps if env.spec is not None else None
        try:
            return cai.from_gym(env, horizon=limit, temperature=ENVIRONMENT_TEMPERATURE)
        except ValueError as error:
            raise CommandError(f"{name}: {one_line(error)}") from error


def make_shown(name: str, options: dict[str, Any]) -> gymnasium.Env:
    """Makes an environment that shows itself in a window.

    Raises:
        CommandError: It has no window, or cannot be made.
    """
    if is_model(name):
        raise CommandError(
            f"--render: {name} is a model, which nothing draws; environments of gymnasium may have a window"
        )
    spec = _spec_of(name)
    with closing(_make(name, spec, options)) as env:
        modes = env.metadata.get("render_modes") or []
    if "human" not in modes:
        raise CommandError(
            f"--render: {name} has no window; its render modes are {', '.join(map(str, modes)) or 'none'}"
        )
    return _make(name, spec, {**options, "render_mode": "human"})


def _spec_of(name: str) -> EnvSpec:
    import gymnasium

    try:
        return gymnasium.spec(name)
    except (gymnasium.error.DeprecatedEnv, gymnasium.error.VersionNotFound) as error:
        raise CommandError(one_line(error)) from error
    except (gymnasium.error.Error, ImportError) as error:
        raise CommandError(_unknown(name)) from error


def _unknown(name: str) -> str:
    import gymnasium

    import cai

    if name and Path(name).exists():
        return f"{name!r} is not a model file; a model file is Python and ends with .py"
    near = did_you_mean(name, [*gymnasium.registry, *cai.models()])
    return f"no environment, model or model file {name!r}; {near or '`cai models` lists the models'}"


def _make(name: str, spec: EnvSpec, options: dict[str, Any]) -> gymnasium.Env:
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    try:
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        if creator is not None:
            check_options(options, creator, ("max_episode_steps", "render_mode"), name)
        return gymnasium.make(name, **options)
    except CommandError:
        raise
    except Exception as error:  # an environment may raise anything, and often for want of an optional package
        raise CommandError(f"cannot make {name!r}: {kind_and_text(error)}") from error


def kind_and_text(error: BaseException) -> str:
    """Writes an error of somebody else's on one line."""
    return one_line(f"{type(error).__name__}: {error}")


def _is_unbounded(space: gymnasium.Space | None) -> bool:
    from gymnasium.spaces import Box

    return isinstance(space, Box) and not space.is_bounded()


def _prior_of(graph: TrajectoryGraph, prior: Prior) -> Any:
    """Makes the prior of a name; actions that the graph's own prior rules out stay unavailable."""
    import cai
    from cai.factors.protocols import TabulatedPrior

    flat = cai.factors.FlatPrior() if prior is Prior.FLAT else None
    if prior is Prior.UNIFORM and _is_unbounded(graph.action_space):
        raise ValueError("--prior uniform: there is no uniform distribution on unbounded actions; flat is the measure")
    if not isinstance(graph.action_prior, TabulatedPrior):
        return flat
    table = graph.action_prior.prior_table(graph.dynamics.num_states, graph.dynamics.num_actions)
    available = table > 0
    if bool(available.all()):
        return flat
    if bool((available != available[:1]).any()):
        raise ValueError("--prior: the actions that the model allows change with time, so its own prior must stay")
    if prior is Prior.FLAT:
        return cai.factors.FlatPrior(available[0])
    return cai.factors.TabularPolicy(available[0] / available[0].sum(-1, keepdim=True))
