r"""A grid world with walls, slippery moves and several goals.

The states are the free cells, row by row; the four actions are left, down, right, up (gymnasium's order for toy
text). A move slips to either side with probability `slip / 2` each, and a move into a wall or off the grid stays
where it is. Every move costs `step_cost`; a goal ends the episode and is worth its reward, once, as the terminal
reward.

A map is text: `S` a start (several share the start equally), `.` free, `#` a wall, `G` a goal worth `goal_reward`, a
digit a goal worth that many. The default map has a small goal near and a large one far away:

    S..#...
    .#.#.#.        near: 5 moves, worth 4         far: 10 moves, worth 10
    .#...#G
    ...#...
    #4.#...

Known answers, undiscounted, without a horizon:

- Temperature 0, no slip: `v(s) = max over goals of reward - step_cost * (number of moves of the shortest path)`. Here
  the start is worth 0 by the far goal, against -1 by the near one. A four-rooms map (`size=n`) has `v(start) =
  goal_reward - 2 (n - 1) step_cost`.
- Without slip the soft policy ends at goal k with probability `exp((v_k - v) / alpha)`, v_k the value when the other
  goals are worth nothing at all (`z` is linear in the `exp(reward / alpha)` of the goals): on the default map at the
  far goal with .956 at temperature 0.1, .028 at 0.3, .005 at 1.
- A corridor `S....G` of N free cells (positions 0 .. N - 1) and the goal at position N, no slip, temperature alpha:
  moves to either side bump and stay, so `z = exp(v / alpha)` satisfies `z_{i+1} + z_{i-1} = 2 cosh(theta) z_i`,
  reflected at -1/2:

      v(i) = goal_reward + alpha log(cosh((i + 1/2) theta) / cosh((N + 1/2) theta)),
      cosh(theta) = 2 exp(step_cost / alpha) - 1

- The posterior messages of `SumProduct` do not depend on `slip` at all: under the uniform action prior all four
  directions are equally likely whatever the slip, so exact conditioning values every cell as if the floor were dry.
  `SoftValueIteration` does not.
- The 4 x 3 world of a well-known textbook is `layout=["...G", ".#..", "S..."]` with `goals={(1, 3): -1.0}`,
  `goal_reward=1.0`, `step_cost=0.04`, `slip=0.2`. Its values at temperature 0:

      .812   .868   .918   goal
      .762   wall   .660   goal
      .705   .655   .611   .388

Source: Russell and Norvig (2010), figures 17.1 and 17.3 (the slip, the 4 x 3 world and its values); Sutton, Precup
and Singh (1999), figure 2 (four rooms); the closed form is derived above.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

import cai

LAYOUT = ("S..#...", ".#.#.#.", ".#...#G", "...#...", "#4.#...")
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
LETTERS = "S.#G0123456789"
#: States whose successors are worked out at once.
BLOCK = 2**14


def build(
    *,
    layout: Sequence[str] | None = None,
    size: int | None = None,
    goals: Mapping[tuple[int, int], float] | None = None,
    goal_reward: float = 10.0,
    step_cost: float = 1.0,
    slip: float = 0.0,
    horizon: int | None = None,
    discount: float = 1.0,
    temperature: float = 1.0,
) -> cai.TrajectoryGraph:
    """Builds the grid world, with sparse dynamics: `[S, 4]` rows of at most three successors, S the free cells.

    Args:
        layout: Rows of text of equal length, as the module says; None for the default map.
        size: Side of a square map of four rooms (one, below 5) instead of `layout`: start top left, goal bottom right.
        goals: Further goals, or other rewards for those of the map: (row, column) to reward.
        goal_reward: What a `G` is worth, in reward units.
        step_cost: What a move costs, in reward units.
        slip: Probability in [0, 1] of moving to one of the two sides instead.
        horizon: Number of moves; None until a goal is reached.
        discount: Discount per move.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: A map that is not rectangular, has an unknown letter, no start or no goal; `layout` and `size`
            together, a size below 2; a goal off the map, in a wall or at a start; a slip outside [0, 1]; a cost or
            reward that is not finite.
    """
    if layout is not None and size is not None:
        raise ValueError("gridworld: give layout or size, not both")
    if not 0.0 <= slip <= 1.0:
        raise ValueError(f"gridworld: slip is a probability in [0, 1], got {slip}")
    if not math.isfinite(step_cost):
        raise ValueError(f"gridworld: step_cost must be finite, got {step_cost}")
    letters = _four_rooms(size) if size is not None else _parse(LAYOUT if layout is None else layout)
    worth = _worth(letters, goal_reward, goals or {})
    cells = np.flatnonzero(letters != "#")
    free_letters, terminal = letters.flat[cells], ~np.isnan(worth.flat[cells])
    start = (free_letters == "S").astype(float)
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=start / start.sum()),
        dynamics=cai.factors.TabularDynamics.from_blocks(
            _successors(letters, cells, terminal, slip),
            num_states=len(cells),
            num_actions=len(MOVES),
            terminal=terminal,
        ),
        reward=cai.factors.TabularReward(np.full(len(cells), -float(step_cost))),
        terminal_reward=cai.factors.TabularReward(np.nan_to_num(worth.flat[cells])),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
        state_space=cai.GridSpace(
            letters.shape[0],
            letters.shape[1],
            cells=cells,
            moves=MOVES,
            labels=np.where(free_letters == ".", np.where(terminal, "G", ""), free_letters),
        ),
    )


def _parse(layout: Sequence[str]) -> NDArray[np.str_]:
    """Reads the map into its letters, `[rows, columns]`."""
    rows = [layout] if isinstance(layout, str) else list(layout)
    lengths = [len(row) for row in rows]
    if not rows or min(lengths) == 0 or min(lengths) != max(lengths):
        raise ValueError(f"gridworld: layout needs rows of one length, at least 1, got lengths {lengths}")
    codes = np.frombuffer("".join(map("".join, rows)).encode("utf-32-le"), dtype="<u4").reshape(len(rows), -1)
    letters = codes.view("<U1")
    unknown = np.argwhere(~np.isin(codes, [ord(letter) for letter in LETTERS]))
    if len(unknown):
        row, column = unknown[0]
        raise ValueError(f"gridworld: letter {str(letters[row, column])!r} at ({row}, {column}) is none of {LETTERS!r}")
    if not (letters == "S").any():
        raise ValueError("gridworld: layout has no start 'S'")
    return letters


def _worth(
    letters: NDArray[np.str_], goal_reward: float, goals: Mapping[tuple[int, int], float]
) -> NDArray[np.float64]:
    """Reward of every goal, `[rows, columns]`, NaN at a cell that is none."""
    digits = (letters >= "0") & (letters <= "9")
    worth = np.where(letters == "G", float(goal_reward), np.nan)
    worth[digits] = letters[digits].astype(float)
    for (row, column), reward in goals.items():
        if not (0 <= row < letters.shape[0] and 0 <= column < letters.shape[1]):
            raise ValueError(f"gridworld: goal ({row}, {column}) is off the map of shape {letters.shape}")
        if letters[row, column] in "#S":
            raise ValueError(
                f"gridworld: goal ({row}, {column}) is at {str(letters[row, column])!r}, a wall or a start"
            )
        worth[row, column] = reward
    if not all(math.isfinite(reward) for reward in (goal_reward, *goals.values())):
        raise ValueError(f"gridworld: rewards of goals must be finite, got {goal_reward} and {dict(goals)}")
    if np.isnan(worth).all():
        raise ValueError("gridworld: there is no goal: put 'G' or a digit on the map, or give goals")
    return worth


def _successors(
    letters: NDArray[np.str_], cells: NDArray[np.intp], terminal: NDArray[np.bool_], slip: float
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """Successors and probabilities, `[n, 4, K]` a block, K = 3 on a slippery floor (as meant, to either side)."""
    state_of_cell = np.full(letters.size, -1, dtype=np.int32)
    state_of_cell[cells] = np.arange(len(cells))
    turns, probs = ([0, -1, 1], [1 - slip, slip / 2, slip / 2]) if slip else ([0], [1.0])
    actions = (np.arange(len(MOVES))[:, None] + turns) % len(MOVES)
    for first in range(0, len(cells), BLOCK):
        states = np.arange(first, min(first + BLOCK, len(cells)), dtype=np.int32)[:, None]
        row, column = np.divmod(cells[states], letters.shape[1])
        row = np.clip(row + [move[0] for move in MOVES], 0, letters.shape[0] - 1)
        column = np.clip(column + [move[1] for move in MOVES], 0, letters.shape[1] - 1)
        landing = state_of_cell[row * letters.shape[1] + column]
        landing = np.where((landing < 0) | terminal[states], states, landing)
        yield landing[:, actions], np.broadcast_to(probs, (len(states), *actions.shape))


def _four_rooms(size: int) -> NDArray[np.str_]:
    """Letters of a square map whose two walls, from size 5, have a door in the middle of each of their halves."""
    if size < 2:
        raise ValueError(f"gridworld: size must be at least 2, got {size}")
    letters = np.full((size, size), ".")
    if size >= 5:
        wall, doors = size // 2, [size // 4, size - 1 - size // 4]
        letters[wall, :] = letters[:, wall] = "#"
        letters[wall, doors] = letters[doors, wall] = "."
    letters[0, 0], letters[-1, -1] = "S", "G"
    return letters
