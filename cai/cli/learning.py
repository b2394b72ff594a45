"""The commands of learning: `cai train`, `cai evaluate`, `cai plot`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cai.cli.errors import CommandError, speaking_errors
from cai.cli.problem import ENVIRONMENT_TEMPERATURE, Prior


class Learner(StrEnum):
    """The methods that learn."""

    SOFT_Q_LEARNING = "soft-q-learning"
    SOFT_ACTOR_CRITIC = "soft-actor-critic"
    POLICY_GRADIENT = "policy-gradient"
    PATH_CONSISTENCY = "path-consistency"
    CROSS_ENTROPY_POLICY_SEARCH = "cross-entropy-policy-search"


class Which(StrEnum):
    """Which posterior of a run."""

    BEST = "best"
    LAST = "last"


def train(
    problem: Annotated[
        str | None,
        typer.Argument(
            metavar="ENV_OR_MODEL",
            help="A gymnasium id, a model's name, or the path of a model file (.py); not needed with --resume.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        Learner | None,
        typer.Option(
            metavar="METHOD",
            help=f"The method that learns: {', '.join(Learner)}.",
            case_sensitive=False,
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the run.", show_default=False)] = ...,  # type: ignore[assignment]
    num_steps: Annotated[
        int | None, typer.Option(metavar="N", help="Environment steps.", show_default="the method's own")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="The seed.", show_default="0")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in the folder, or begin one; options need not be repeated."),
    ] = False,
    discount: Annotated[
        float | None,
        typer.Option(metavar="X", help="Discount in [0, 1].", show_default="0.99 for environments, the model's own"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Temperature, in units of reward.",
            show_default=f"{ENVIRONMENT_TEMPERATURE} for environments, the model's own",
        ),
    ] = None,
    prior: Annotated[
        Prior | None,
        typer.Option(
            help="Action prior: uniform (KL penalty) or flat (plain entropy bonus).",
            show_default="uniform where there is one",
        ),
    ] = None,
    num_envs: Annotated[
        int | None, typer.Option(metavar="N", help="Copies of the environment.", show_default="the method's own")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help='A hyper-parameter of the method, such as batch_size=64 or "replay=UniformReplay(capacity=1000)"; '
            "may be repeated.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Passed to gymnasium.make or to the model's build; may be repeated."),
    ] = None,
    eval_every: Annotated[
        int | None, typer.Option(metavar="N", help="Environment steps between evaluations.", show_default="5000")
    ] = None,
    eval_episodes: Annotated[
        int | None, typer.Option(metavar="N", help="Episodes of an evaluation.", show_default="20")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(metavar="S", help="Stop after so many seconds.", show_default="none")
    ] = None,
    stop_at: Annotated[
        float | None,
        typer.Option(metavar="RETURN", help="Stop when an evaluation has this mean return.", show_default="never"),
    ] = None,
    checkpoint_every: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds between checkpoints.", show_default="60")
    ] = None,
) -> None:
    """Learn a policy from samples of an environment or a model.

    Writes what was asked (config.json), a log (metrics.jsonl), a checkpoint to go on from, and the best and the last
    posterior. Control-C saves; --resume goes on.
    """
    with speaking_errors():
        from cai.cli.output import output_directory
        from cai.cli.run_folder import RunFolder, configured

        said = {
            "problem": problem,
            "method": None if method is None else method.value,
            "options": tuple(option or ()),
            "settings": tuple(setting or ()),
            "num_steps": num_steps,
            "num_envs": num_envs,
            "seed": seed,
            "discount": discount,
            "temperature": temperature,
            "prior": None if prior is None else prior.value,
            "eval_every": eval_every,
            "eval_episodes": eval_episodes,
            "time_limit": time_limit,
            "stop_at": stop_at,
            "checkpoint_every": checkpoint_every,
        }
        folder = RunFolder(out)
        config = configured(folder, said, resume)
        with output_directory(out):
            from cai.cli.training import train as run

            run(folder, config)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run of `cai train`.")],
    episodes: Annotated[int, typer.Option(metavar="N", min=1, help="How many episodes.")] = 20,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Episode i is reset with seed + i.")] = 10_000,
    which: Annotated[
        Which | None,
        typer.Option(help="The policy of the best evaluation, or the last.", show_default="best, where there is one"),
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw actions; otherwise each is the most probable one.")
    ] = False,
    render: Annotated[bool, typer.Option("--render", help="Show the episodes in a window.")] = False,
) -> None:
    """Run episodes of what was trained: mean return, its standard error, the least and the greatest."""
    with speaking_errors():
        from cai.cli.evaluating import evaluate as run
        from cai.cli.run_folder import RunFolder

        run(RunFolder(folder), which, episodes, seed, sample=sample, render=render)


def plot(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs of `cai train`.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture (.png, .pdf, .svg).")] = Path(
        "learning_curves.png"
    ),
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What to draw.", show_default="evaluation_return, or return"),
    ] = None,
) -> None:
    """Draw learning curves: runs that differ in the seed only as their mean with a 95 % band, others as lines."""
    with speaking_errors():
        from cai.cli.curves import plot as run
        from cai.cli.run_folder import RunFolder

        if not out.parent.is_dir():
            raise CommandError(f"--out {out}: there is no folder {out.parent}")
        run([RunFolder(folder) for folder in folders], metric, out)
