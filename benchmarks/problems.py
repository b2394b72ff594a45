"""The problems that the benchmarks share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse

import cai

DATA = Path(__file__).parent / "data"


def random_500() -> tuple[scipy.sparse.csr_matrix, np.ndarray, np.ndarray, int]:
    """A random world of 500 states and 5 actions: table `[S * A, S]` with 7,459 entries, r `[S]`, p(s_0), T = 50."""
    data = np.load(DATA / "random_500x5_h50.npz")
    shape = (len(data["reward"]) * int(data["num_actions"]), len(data["reward"]))
    table = scipy.sparse.csr_matrix((data["probs"], data["indices"].astype(np.int32), data["indptr"]), shape=shape)
    return table, data["reward"], data["initial"], int(data["horizon"])


def graph_500() -> cai.TrajectoryGraph:
    """The same as a graph, with the counting measure on actions, as maximum-entropy inverse RL has it."""
    table, reward, initial, horizon = random_500()
    return cai.TrajectoryGraph(
        cai.factors.Categorical(initial),
        cai.factors.TabularDynamics(table),
        cai.factors.TabularReward(reward),
        horizon=horizon,
        action_prior=cai.factors.FlatPrior(),
    )


def graph_chain() -> cai.TrajectoryGraph:
    """A random dense world of 20 states, 4 actions, horizon 80."""
    random = np.random.default_rng(0)
    return cai.TrajectoryGraph(
        cai.factors.Categorical(random.dirichlet(np.ones(20))),
        cai.factors.TabularDynamics(random.dirichlet(np.ones(20), size=(20, 4))),
        cai.factors.TabularReward(random.normal(size=(20, 4))),
        horizon=80,
    )
