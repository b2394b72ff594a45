"""The folder of a training run: which files there are, and what was asked."""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cai.cli.errors import CommandError, one_line
from cai.cli.problem import Changes, Prior

#: What a run that goes on may be given anew; the rest decides what is learned, and stays.
CHANGEABLE = ("num_steps", "eval_every", "eval_episodes", "time_limit", "stop_at", "checkpoint_every")
#: The options as they are written on the command line, where that is not the name with dashes.
_FLAGS = {"options": "--option", "settings": "--set"}
_PACKAGES = ("torch", "gymnasium", "numpy")


@dataclass(frozen=True)
class Config:
    """All that repeats a training run.

    Attributes:
        problem: The environment, model or model file.
        method: The method's name on the command line.
        options: Options of the problem, as `key=value`.
        settings: Hyper-parameters of the method, as `key=value`.
        num_steps: Environment steps; None for the method's own number, as for the other Nones.
        num_envs: Copies of the environment.
        seed: The seed.
        discount: gamma.
        temperature: alpha, reward units.
        prior: "uniform" or "flat".
        eval_every: Environment steps between two evaluations.
        eval_episodes: Episodes of each.
        time_limit: Seconds.
        stop_at: The mean return that is good enough.
        checkpoint_every: Seconds between two checkpoints.
    """

    problem: str
    method: str
    options: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    num_steps: int | None = None
    num_envs: int | None = None
    seed: int = 0
    discount: float | None = None
    temperature: float | None = None
    prior: str | None = None
    eval_every: int = 5000
    eval_episodes: int = 20
    time_limit: float | None = None
    stop_at: float | None = None
    checkpoint_every: float = 60.0

    def check(self) -> None:
        """Refuses what no run can have, before anything is loaded.

        Raises:
            CommandError: A number out of its range.
        """
        self.changes.check()
        for name in ("num_steps", "num_envs", "eval_every", "eval_episodes"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise CommandError(f"{flag(name)} must be at least 1, got {number}")
        for name in ("time_limit", "checkpoint_every"):
            number = getattr(self, name)
            if number is not None and not number > 0.0:
                raise CommandError(f"{flag(name)} must be a positive number of seconds, got {number:g}")
        if self.seed < 0:
            raise CommandError(f"--seed must be at least 0, got {self.seed}")

    @property
    def changes(self) -> Changes:
        """What is to be different from the problem's own."""
        prior = None if self.prior is None else Prior(self.prior)
        return Changes(temperature=self.temperature, discount=self.discount, prior=prior)

    def command(self, out: Path) -> str:
        """Writes the command that repeats the run."""
        words = ["cai", "train", self.problem]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default or field.name == "method":
                for item in value if isinstance(value, tuple) else (value,):
                    words += [flag(field.name), str(item)]
        return shlex.join([*words, "--out", str(out)])


def flag(name: str) -> str:
    """Gives the option of the command line that sets a part of `Config`."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
        path: Where it is.
    """

    path: Path

    @property
    def config(self) -> Path:
        """What was asked, with versions."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """The log."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Where the run goes on from."""
        return self.path / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """The posterior of the best evaluation."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """The posterior at the end."""
        return self.path / "posterior.safetensors"

    @property
    def has_run(self) -> bool:
        """Whether a run was begun here."""
        return any(file.exists() for file in (self.config, self.metrics, self.checkpoint, self.best, self.last))

    def write_config(self, config: Config, facts: dict[str, Any]) -> None:
        """Writes what is asked, the command that asks it, versions, and facts beside."""
        from cai.data import serialization

        more = {"command": config.command(self.path), "versions": _versions()}
        content = dataclasses.asdict(config) | facts | more
        serialization.write_atomically(self.config, (json.dumps(content, indent=2) + "\n").encode())

    def read_config(self) -> Config:
        """Reads what was asked.

        Raises:
            CommandError: There is no run here, or the file is damaged.
        """
        try:
            content = json.loads(self.config.read_text())
            known = {field.name for field in dataclasses.fields(Config)}
            parts: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in content.items()
                if name in known
            }
            return Config(**parts)
        except FileNotFoundError:
            raise CommandError(f"{self.path}: no training run is here (no {self.config.name})") from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CommandError(f"{self.config} cannot be read: {one_line(error)}") from error


def configured(folder: RunFolder, given: dict[str, Any], resume: bool) -> Config:
    """Puts together what is to be run: what was given, and where a run goes on what was asked then.

    Args:
        folder: Where.
        given: What the command line says, by the names of `Config`; None where it says nothing.
        resume: Whether a run is to go on.

    Raises:
        CommandError: A run that is here and is not to go on; nothing to run; or another run than the one here.
    """
    said = {name: value for name, value in given.items() if value is not None and value != ()}
    if folder.has_run and not resume:
        raise CommandError(f"--out {folder.path} holds a run already; --resume goes on with it, or give another folder")
    if folder.config.exists():
        before = folder.read_config()
        for name, value in said.items():
            if name not in CHANGEABLE and value != getattr(before, name):
                raise CommandError(
                    f"{_named(name)} {_text(value)}: the run in {folder.path} has {_text(getattr(before, name))}; "
                    "a run goes on with what it began with"
                )
        config = dataclasses.replace(before, **said)
    else:
        missing = [name for name in ("problem", "method") if name not in said]
        if missing:
            here = f"; there is no run in {folder.path} to go on with" if resume else ""
            raise CommandError(f"give {' and '.join(map(_named, missing))}{here}")
        config = Config(**said)
    config.check()
    return config


def _named(name: str) -> str:
    return "ENV_OR_MODEL" if name == "problem" else flag(name)


def _text(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else "none" if value is None else str(value)


def _versions() -> dict[str, str]:
    import cai

    return {"cai": cai.__version__, "python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
