"""The printed report of a finite world: a table of numbers, then maps of a grid world or a table of states."""

from __future__ import annotations

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cai.cli.answer import Answer, Missing
from cai.cli.summary import accuracy, summary_table
from cai.cli.text_maps import NEARLY, OFF_GRID, TERMINAL, TextMap, arrow_map, number_map

_NUM_STATES_SHOWN = 12
_NUM_ACTIONS_SHOWN = 4
_NUM_PATH_SHOWN = 12
_SPACE_BETWEEN = 4


def print_report(console: Console, title: str, answer: Answer) -> None:
    """Prints everything that there is to say of an answer.

    Args:
        console: Where to.
        title: The problem's name.
        answer: The answer.
    """
    rows = _paths(answer) | accuracy(answer.posterior.stats)
    console.print(summary_table(title, answer.posterior, answer.numbers, _world(answer), rows))
    console.print()
    if answer.grid is None:
        console.print(state_table(answer))
    else:
        console.print(grid_maps(answer, console))


def _world(answer: Answer) -> str:
    return f"{answer.num_states} states, {answer.num_actions} actions"


def _paths(answer: Answer) -> dict[str, str]:
    return {} if isinstance(answer.path, Missing) else {"most probable path": _path_text(answer.path)}


def grid_maps(answer: Answer, console: Console) -> RenderableType:
    """Puts value, policy and marginal of a grid world next to each other, as far as they fit."""
    grid, terminal = answer.grid, answer.terminal
    assert grid is not None
    width, at = console.width, "" if answer.horizon is None else ", t = 0"
    maps: list[TextMap] = []
    if not isinstance(answer.values, Missing):
        maps.append(number_map(f"{_value(answer)}{at}", grid, terminal, answer.values, width))
    ascii_only = console.options.ascii_only
    maps.append(arrow_map(f"policy{at}", grid, terminal, answer.policy, width, ascii_only=ascii_only))
    if not isinstance(answer.marginals, Missing):
        percent = 100.0 * answer.marginals[-1]
        maps.append(number_map(f"{_where(answer)} [%]", grid, terminal, np.round(percent, 1), width))
    if not isinstance(answer.visits, Missing) and np.isfinite(answer.visits).all():
        discounted = "" if answer.posterior.graph.discount == 1.0 else ", discounted"
        maps.append(number_map(f"expected visits{discounted}", grid, terminal, np.round(answer.visits, 2), width))
    if max(one.width for one in maps) > width:
        return Text(f"{grid.num_rows} x {grid.num_columns} cells are too many for this terminal; --out draws them")
    return Group(*_rows_of_maps(maps, width), *_notes(answer, maps))


def state_table(answer: Answer) -> RenderableType:
    """Tables the states of a world that is no grid: all of a few, or those where the agent is most."""
    visits = None if isinstance(answer.marginals, Missing) else answer.marginals.mean(0)
    states = np.arange(answer.num_states)
    caption = None
    if answer.num_states > _NUM_STATES_SHOWN:
        order = states if visits is None else np.argsort(-visits, kind="stable")
        states = np.sort(order[:_NUM_STATES_SHOWN])
        caption = f"the {_NUM_STATES_SHOWN} most visited of {answer.num_states} states"
    at = "" if answer.horizon is None else ", t = 0"
    table = Table(caption=caption, caption_justify="left")
    for heading in ("state", f"{_value(answer)}{at}", f"policy{at}", f"{_where(answer)} [%]"):
        table.add_column(heading, justify="right" if heading != f"policy{at}" else "left")
    for state in states:
        table.add_row(*_state_row(answer, int(state)))
    return table


def _state_row(answer: Answer, state: int) -> tuple[str, str, str, str]:
    value = "" if isinstance(answer.values, Missing) else f"{answer.values[state]:.4g}"
    share = "" if isinstance(answer.marginals, Missing) else f"{100.0 * answer.marginals[-1, state]:.1f}"
    return str(state), value, _policy_text(answer, state), share


def _policy_text(answer: Answer, state: int) -> str:
    if answer.terminal[state]:
        return "terminal"
    probabilities = answer.policy[state]
    if answer.num_actions <= _NUM_ACTIONS_SHOWN:
        return " ".join(f"{probability:.2f}" for probability in probabilities)
    best = np.flatnonzero(probabilities >= NEARLY * probabilities.max())
    return f"{', '.join(str(action) for action in best[:_NUM_ACTIONS_SHOWN])} ({probabilities.max():.2f})"


def _rows_of_maps(maps: list[TextMap], width: int) -> list[RenderableType]:
    """Fills rows from the left; a map that does not fit any more begins a row."""
    rows: list[list[TextMap]] = []
    for one in maps:
        used = sum(other.width + _SPACE_BETWEEN for other in rows[-1]) if rows else width
        if used + one.width > width:
            rows.append([])
        rows[-1].append(one)
    return [_row(row) for row in rows]


def _row(maps: list[TextMap]) -> Text:
    height = max(len(one.lines) for one in maps)
    blocks = [(one.title, *one.lines, *[""] * (height - len(one.lines))) for one in maps]
    gap = " " * _SPACE_BETWEEN
    lines = []
    for parts in zip(*blocks, strict=True):
        lines.append(gap.join(part.ljust(one.width) for part, one in zip(parts, maps, strict=True)).rstrip())
    return Text("\n".join([*lines, ""]), no_wrap=True)


def _notes(answer: Answer, maps: list[TextMap]) -> list[RenderableType]:
    assert answer.grid is not None
    notes = [one.note for one in maps if one.note]
    if len(set(answer.grid.cells) - {-1}) < answer.grid.num_rows * answer.grid.num_columns:
        notes.append(f"{OFF_GRID} no state")
    if any(ends and not label for ends, label in zip(answer.terminal, answer.grid.labels, strict=True)):
        notes.append(f"{TERMINAL} terminal")
    off = [state for state, cell in enumerate(answer.grid.cells) if cell < 0]
    if off and not isinstance(answer.marginals, Missing):
        notes.append(f"off the grid: {100.0 * answer.marginals[-1, off].sum():.1f} %")
    return [Text(note, style="dim") for note in notes]


def _where(answer: Answer) -> str:
    if answer.horizon is not None:
        return f"state at t = {answer.horizon}"
    return "in the long run" if answer.posterior.graph.discount == 1.0 else "occupancy"


def _value(answer: Answer) -> str:
    return "value v(s)" if isinstance(answer.numbers.gain, Missing) else "relative value v(s)"


def _path_text(path: tuple[int, ...]) -> str:
    shown = " ".join(str(state) for state in path[:_NUM_PATH_SHOWN])
    return f"states {shown}{' ...' if len(path) > _NUM_PATH_SHOWN else ''} ({len(path) - 1} actions)"
