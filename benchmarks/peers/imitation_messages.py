"""The peer's worker: `mce_partition_fh` and `mce_occupancy_measures` of imitation 1.0.1 on the 500-state world.

Runs in an environment of its own, since imitation pins gymnasium 0.29; `benchmarks/README.md` says how to make it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import scipy.sparse
from imitation.algorithms.mce_irl import mce_occupancy_measures, mce_partition_fh
from seals import base_envs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from worker import serve

data = np.load(Path(__file__).resolve().parent.parent / "data" / "random_500x5_h50.npz")
num_states, num_actions = len(data["reward"]), int(data["num_actions"])
table = scipy.sparse.csr_matrix(
    (data["probs"], data["indices"].astype(np.int32), data["indptr"]), shape=(num_states * num_actions, num_states)
)
world = base_envs.TabularModelPOMDP(
    observation_matrix=np.eye(num_states, dtype=np.float32),
    transition_matrix=table.toarray().reshape(num_states, num_actions, num_states),
    reward_matrix=data["reward"],
    initial_state_dist=data["initial"],
    horizon=int(data["horizon"]),
)


def run() -> None:
    """Partition function and occupancy measures."""
    _, _, policy = mce_partition_fh(world)
    mce_occupancy_measures(world, pi=policy)


serve(run)
