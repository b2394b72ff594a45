r"""The frozen lake of gymnasium, from tables of our own.

This is `FrozenLake-v1` without needing the environment. Reach the goal over slippery ice, past the holes. The states
are the cells, row by row; the actions left, down, right, up. On slippery ice a move goes as meant with probability
`success_rate`, and to either side with half of what is left; a move off the map stays. Holes and goals are terminal.
Arriving at a goal pays 1, elsewhere 0.

Known answers from the start, on slippery ice, at temperature 0 (the reward is then the probability of reaching the
goal):

    map     in 100 steps          in 200 steps          discount .99          without end
    4x4     0.7441902878292697    0.8167335046802775    0.5420259320004713    14/17
    8x8     0.6407192702708887    0.9132201502016296    0.4146403617999857    1

(by value iteration over gymnasium's own tables, which a test repeats; 100 steps is the limit of `FrozenLake-v1`, 200
that of `FrozenLake8x8-v1`). At any temperature above 0 the values and state marginals of the posterior (`SumProduct`)
do not depend on `is_slippery` or `success_rate`: the uniform action prior makes all four directions equally likely
whatever the slip, and exact conditioning crosses the lake as if the ice obeyed.

Source: gymnasium 1.4, `gymnasium/envs/toy_text/frozen_lake.py`, whose maps these are (MIT licence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import cai

MAPS = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"),
}
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))


def build(
    *,
    map_name: str = "4x4",
    desc: Sequence[str] | None = None,
    is_slippery: bool = True,
    success_rate: float = 1 / 3,
    reward_schedule: tuple[float, float, float] = (1.0, 0.0, 0.0),
    horizon: int | None = 100,
    discount: float = 1.0,
    temperature: float = 0.1,
) -> cai.TrajectoryGraph:
    """Builds the lake: S cells, A = 4, sparse dynamics, and the reward on the transition, sparse `[S * A, S]`.

    Args:
        map_name: "4x4" or "8x8".
        desc: Rows of text of one length instead of `map_name`: `S` start (several share it equally), `F` ice, `H` hole,
            `G` goal.
        is_slippery: Whether moves slip.
        success_rate: Probability in [0, 1] of moving as meant on slippery ice.
        reward_schedule: Rewards of arriving at a goal, at a hole, and on ice.
        horizon: Number of steps; None until a goal or a hole.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: An unknown map, a map that is not rectangular, has an unknown letter or no start; a rate outside
            [0, 1]; rewards that are not three finite numbers.
    """
    if desc is None and map_name not in MAPS:
        raise ValueError(f"frozen_lake: map_name must be one of {sorted(MAPS)}, got {map_name!r}")
    if not 0.0 <= success_rate <= 1.0:
        raise ValueError(f"frozen_lake: success_rate is a probability in [0, 1], got {success_rate}")
    if len(reward_schedule) != 3 or not all(math.isfinite(reward) for reward in reward_schedule):
        raise ValueError(f"frozen_lake: reward_schedule must be three finite numbers, got {reward_schedule}")
    letters = _parse(MAPS[map_name] if desc is None else desc)
    flat, (num_rows, num_columns) = letters.ravel(), letters.shape
    terminal, start = np.isin(flat, ["G", "H"]), (flat == "S").astype(float)
    successors, probs = _successors(letters, terminal, success_rate if is_slippery else 1.0)
    arrival = np.select([flat == "G", flat == "H"], reward_schedule[:2], reward_schedule[2])
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=start / start.sum()),
        dynamics=cai.factors.TabularDynamics.from_successors(successors, probs, terminal=terminal),
        reward=cai.factors.TabularReward(_arrival_rewards(successors, probs, arrival)),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
        state_space=cai.GridSpace(num_rows, num_columns, cells=range(len(flat)), moves=MOVES, labels=flat.tolist()),
    )


def _parse(desc: Sequence[str]) -> NDArray[np.str_]:
    """Reads the map into its letters, `[rows, columns]`."""
    lengths = [len(row) for row in desc]
    if not lengths or min(lengths) == 0 or min(lengths) != max(lengths):
        raise ValueError(f"frozen_lake: desc needs rows of one length, at least 1, got lengths {lengths}")
    letters = np.array([list(row) for row in desc])
    unknown = np.argwhere(~np.isin(letters, list("SFHG")))
    if len(unknown):
        row, column = unknown[0]
        raise ValueError(f"frozen_lake: letter {str(letters[row, column])!r} at ({row}, {column}) is none of 'SFHG'")
    if not (letters == "S").any():
        raise ValueError("frozen_lake: desc has no start 'S'")
    return letters


def _successors(
    letters: NDArray[np.str_], terminal: NDArray[np.bool_], success_rate: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Next cells and their probabilities, `[S, A, 3]` each: as meant, to either side; a terminal cell stays."""
    cells = np.arange(letters.size)
    position = np.stack(np.divmod(cells, letters.shape[1]), axis=-1)[:, None] + np.array(MOVES)
    row, column = np.moveaxis(np.clip(position, 0, np.array(letters.shape) - 1), -1, 0)
    landing = np.where(terminal[:, None], cells[:, None], row * letters.shape[1] + column)
    successors = landing[:, (np.arange(4)[:, None] + np.array([0, -1, 1])) % 4]
    side = (1.0 - success_rate) / 2.0
    return successors, np.broadcast_to(np.array([success_rate, side, side]), successors.shape).copy()


def _arrival_rewards(
    successors: NDArray[np.intp], probs: NDArray[np.float64], arrival: NDArray[np.float64]
) -> sparse.csr_matrix:
    """Spreads the reward of arriving at a cell, `[S]`, over the transitions that can happen, `[S * A, S]`."""
    num_states, num_actions, num_successors = successors.shape
    rows, possible = np.repeat(np.arange(num_states * num_actions), num_successors), probs.ravel() > 0
    shape = (num_states * num_actions, num_states)
    rewards = sparse.csr_matrix((probs.ravel()[possible], (rows[possible], successors.ravel()[possible])), shape=shape)
    # Set afterwards: two slips may land on one cell, and the constructor adds up what lands together.
    rewards.data = arrival[rewards.indices]
    return rewards
