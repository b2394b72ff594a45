"""Where the nodes of an unrolled trajectory stand: in time from left to right.

The names tell what is a trajectory: variables s0..sT and a0..a{T-1}, with one prefix or suffix for each of several
agents. States stand in a row with their actions above, agent below agent. Other variables whose name ends in a number
up to T have a row of their own below, in time as well, all others the last row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cai.graph.drawing.board import GAP, RADIUS, Board, Node

if TYPE_CHECKING:
    from cai.graph.factor_graph import FactorGraph

Row = tuple[str, str]

#: From state to state, from states to their actions (up, and to the right), from row to row, from agent to agent.
_STEP, _RISE, _LEAN, _ROW, _AGENT = 2.75, 1.6, 0.6, 1.5, 3.6
#: Where the factors of `unroll` stand, from their first state on, by what they tie; the second is for a second one.
_HOMES = {
    (("s", 0),): ((-1.0, 0.0),),
    (("s", 0), ("a", 0)): ((-0.35, 0.95), (0.5, 0.75)),
    (("s", 0), ("a", 0), ("s", 1)): ((1.65, 0.35), (1.7, 1.45)),
}
_END = ((1.0, 0.0),)


@dataclass(frozen=True)
class Timeline:
    """Row and time of variables, ("key", "") and 7 for "key7", and the rows of states and of actions of each agent."""

    at: dict[str, tuple[Row, int]]
    agents: list[tuple[Row, Row]]
    last: int

    def levels(self) -> dict[Row, float]:
        """Computes the height of each row: agents from the top down, then the others in the order of the graph."""
        levels: dict[Row, float] = {}
        for number, (states, actions) in enumerate(self.agents):
            levels |= {states: -_AGENT * number, actions: _RISE - _AGENT * number}
        for row, _ in self.at.values():
            levels.setdefault(row, min(levels.values()) - _ROW)
        return levels

    def tied(self, scope: Iterable[str]) -> tuple[tuple[str, int], ...] | None:
        """Says what a factor ties, as (s or a, time after the first), if it is all of one agent."""
        points = [self.at.get(name, (("", ""), 0)) for name in scope]
        for agent in self.agents:
            if points and all(row in agent for row, _ in points):
                return tuple(("sa"[agent.index(row)], t - points[0][1]) for row, t in points)
        return None


def read_timeline(names: Iterable[str]) -> Timeline | None:
    """Reads rows and times off the names; None if they are not those of an unrolled trajectory."""
    matches = {name: re.fullmatch(r"(.*?)(\d{1,9})(\D*)", name) for name in names}
    at = {name: ((match[1], match[3]), int(match[2])) for name, match in matches.items() if match}
    times: dict[Row, set[int]] = {}
    for row, t in at.values():
        times.setdefault(row, set()).add(t)
    agents, last = [], 0
    for states, found in times.items():
        actions = (states[0][:-1] + "a", states[1])
        horizon = len(times.get(actions, ()))
        if not (states[0].endswith("s") and horizon and found == set(range(horizon + 1))):
            continue
        if times[actions] == set(range(horizon)):
            agents.append((states, actions))
            last = max(last, horizon)
    return Timeline({name: spot for name, spot in at.items() if spot[1] <= last}, agents, last) if agents else None


def lay_out_in_time(
    graph: FactorGraph, timeline: Timeline, half_widths: Mapping[Node, float], scopes: Mapping[Node, tuple[Node, ...]]
) -> Board:
    """Puts the nodes of a trajectory: its variables by row and time, the factors of `unroll` at home, others near.

    Args:
        graph: The trajectory.
        timeline: Row and time of its variables.
        half_widths: Half the width of each variable.
        scopes: What each factor ties.
    """
    board, levels = Board(half_widths), timeline.levels()
    leaning = {actions for _, actions in timeline.agents}
    step = max([_STEP, *(2.0 * GAP * half_widths.get(("variable", name), 0.0) for name in timeline.at)])
    for name, (row, t) in timeline.at.items():
        board.add(("variable", name), np.array([step * t + _LEAN * (row in leaning), levels[row]]))
    _add_last_row(board, scopes, [("variable", v.name) for v in graph.variables if v.name not in timeline.at])
    rest = {}
    for (node, scope), factor in zip(scopes.items(), graph.factors, strict=True):
        homes = _HOMES.get(timeline.tied(factor.variables) or (), ())
        if len(scope) == 1 and homes:  # a factor of one state alone has a home at the ends of time
            t = timeline.at[factor.variables[0]][1]
            homes = homes if t == 0 else _END if t == timeline.last else ()
        spots = [board[scope[0]] + np.array(home) for home in homes]
        home = next((spot for spot in spots if board.is_free(spot)), None)
        if home is None:
            rest[node] = scope
        else:
            board.put(node, scope, home)
    board.put_all(rest)
    return board


def _add_last_row(board: Board, scopes: Mapping[Node, tuple[Node, ...]], nodes: list[Node]) -> None:
    """Puts variables without a time below all others, each under the middle of what it is tied to."""
    level, middles = board.box()[0][1] + RADIUS - _ROW, {}
    for node in nodes:
        mates = [board[mate][0] for scope in scopes.values() if node in scope for mate in scope if mate in board]
        middles[node] = float(np.mean(mates)) if mates else 0.0
    edge = -np.inf
    for node in sorted(nodes, key=lambda node: middles[node]):
        room = GAP * board.half_widths.get(node, RADIUS)
        x = max(middles[node], edge + room)
        board.add(node, np.array([x, level]))
        edge = x + room
