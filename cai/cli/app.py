"""The program: its commands and options."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cai.cli import learning
from cai.cli.errors import BAD_INPUT, INTERRUPTED, CommandError, complain, one_line, speaking_errors
from cai.cli.options import parse_options
from cai.cli.problem import ENVIRONMENT_TEMPERATURE, Changes, Prior, build_graph, check_memory

if TYPE_CHECKING:
    from cai.cli.answer import Answer
    from cai.cli.progress import Work
    from cai.cli.vectors import VectorAnswer
    from cai.graph import TrajectoryGraph

#: What the parser raises for a wrong command line. Older versions of typer take the class from click, newer ones have
#: their own, and neither exports it.
_USAGE_ERROR: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")


class Method(StrEnum):
    """The methods that the command line offers."""

    SOFT_VALUE_ITERATION = "soft-value-iteration"
    SOFT_POLICY_ITERATION = "soft-policy-iteration"
    SUM_PRODUCT = "sum-product"
    MAX_PRODUCT = "max-product"
    ILQR = "ilqr"


_CLASSES = {
    Method.SOFT_VALUE_ITERATION: "SoftValueIteration",
    Method.SOFT_POLICY_ITERATION: "SoftPolicyIteration",
    Method.SUM_PRODUCT: "SumProduct",
    Method.MAX_PRODUCT: "MaxProduct",
    Method.ILQR: "ILQR",
}


@dataclass(frozen=True)
class Question:
    """What the command line asks.

    Attributes:
        problem: The environment, model or model file.
        options: Its options, as `key=value`.
        changes: What is to be different from the problem's own.
        method: The method.
        seed: The seed, for methods that sample.
    """

    problem: str
    options: tuple[str, ...]
    changes: Changes
    method: Method
    seed: int | None

    def as_json(self) -> dict[str, Any]:
        """Writes down what an answer does not tell of its question."""
        prior = None if self.changes.prior is None else self.changes.prior.value
        asked = {"problem": self.problem, "options": list(self.options), "method": self.method.value}
        return asked | {"prior": prior, "seed": self.seed}


class _OneLineErrors(TyperGroup):
    """A group whose usage errors are one line, like all others."""

    def main(self, *args: Any, **options: Any) -> Any:
        standalone = options.pop("standalone_mode", True)
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except typer.Abort:
            complain("interrupted")
            code = INTERRUPTED
        except _USAGE_ERROR as error:
            complain(f"{one_line(error.format_message()).rstrip('.')}; --help lists commands and options")
            code = BAD_INPUT
        if standalone:
            sys.exit(code or 0)
        return code


app = typer.Typer(
    name="cai",
    cls=_OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Control as inference: soft-optimal policies as posteriors of a factor graph.",
    epilog="Try: [bold]cai solve FrozenLake-v1[/bold]",
)


def main() -> None:
    """Runs the program."""
    app(prog_name="cai")


def _print_version(wanted: bool) -> None:
    if wanted:
        import cai

        print(f"cai {cai.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def cli(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Control as inference: soft-optimal policies as posteriors of a factor graph."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("models")
def list_models() -> None:
    """List the models of the library, which `cai solve NAME` runs."""
    with speaking_errors():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        import cai

        table = Table(title="models", title_justify="left", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, summary in cai.models().items():
            table.add_row(name, Text(summary))
        Console().print(table)


@app.command()
def solve(
    problem: Annotated[
        str,
        typer.Argument(
            metavar="ENV_OR_MODEL", help="A gymnasium id, a model's name, or the path of a model file (.py)."
        ),
    ],
    method: Annotated[
        Method, typer.Option(help="The method of inference.", case_sensitive=False)
    ] = Method.SOFT_VALUE_ITERATION,
    horizon: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Number of steps.", show_default="the environment's step limit, the model's own"
        ),
    ] = None,
    infinite: Annotated[bool, typer.Option("--infinite", help="No horizon.")] = False,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Temperature, in units of reward; 0 is hard optimality.",
            show_default=f"{ENVIRONMENT_TEMPERATURE} for environments, the model's own",
        ),
    ] = None,
    discount: Annotated[
        float | None,
        typer.Option(metavar="X", help="Discount in [0, 1].", show_default="1 for environments, the model's own"),
    ] = None,
    prior: Annotated[
        Prior | None,
        typer.Option(
            help="Action prior: uniform (KL penalty) or flat (plain entropy bonus).",
            show_default="uniform for environments, the model's own",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Passed to gymnasium.make or to the model's build; may be repeated."),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed, for methods that sample.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the posterior, a summary in JSON, and pictures.")
    ] = None,
) -> None:
    """Infer the soft-optimal policy, values and state marginals of an environment or a model.

    Prints a summary, and maps of a grid world. Bad input gives one line and exit code 2.
    """
    with speaking_errors():
        changes = Changes(horizon, infinite, temperature, discount, prior)
        changes.check()
        _solve(Question(problem, tuple(option or ()), changes, method, seed), out)


app.command("train")(learning.train)
app.command("evaluate")(learning.evaluate)
app.command("plot")(learning.plot)


def _solve(question: Question, out: Path | None) -> None:
    from rich.console import Console

    from cai.cli.output import output_directory, write_all
    from cai.cli.progress import watched
    from cai.cli.reports import print_answer

    options = parse_options(question.options)
    with output_directory(out):
        with watched(Console(stderr=True)) as work:
            work.enter(f"building {question.problem}")
            graph = build_graph(question.problem, options, question.changes)
            answer = _infer(graph, question, work)
        print_answer(Console(), question.problem, answer)
        if out is not None:
            with watched(Console(stderr=True)) as work:
                files = write_all(out, question.as_json(), answer, work)
            print(f"\nwrote {', '.join(files)} to {out}")


def _infer(graph: TrajectoryGraph, question: Question, work: Work) -> Answer | VectorAnswer:
    import cai
    from cai.cli.reports import read_any_answer

    check_memory(graph)
    try:
        posterior = cai.infer(graph, getattr(cai, _CLASSES[question.method])(), seed=question.seed, callbacks=[work])
    except (ValueError, cai.NonFinite) as error:  # IncompatibleMethod is a ValueError
        raise CommandError(one_line(error)) from error
    return read_any_answer(posterior)
