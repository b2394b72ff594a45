"""The peer's worker: sweeps of PGMax 0.6.1, sum-product without damping, in float64 on the CPU.

Runs in an environment of its own, since PGMax needs jax 0.4.20; `benchmarks/README.md` says how to make it. The
compilation is not timed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["JAX_ENABLE_X64"] = "1"

import jax
from pgmax import fgraph, fgroup, infer, vgroup

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from loopy import NUM_LABELS, SIZE, grid
from worker import serve

unary, edges, pairs = grid("different")
variables = vgroup.NDVarArray(num_states=NUM_LABELS, shape=(SIZE, SIZE))
graph = fgraph.FactorGraph(variable_groups=[variables])
scopes = [[variables[divmod(int(i), SIZE)] for i in edge] for edge in edges]
graph.add_factors(fgroup.PairwiseFactorGroup(variables_for_factors=scopes, log_potential_matrix=pairs))
inferer = infer.build_inferer(graph.bp_state, backend="bp")
start = inferer.init(evidence_updates={variables: unary.reshape(SIZE, SIZE, NUM_LABELS)})
num_sweeps = int(sys.argv[1])
sweeps = jax.jit(lambda arrays: inferer.run(arrays, num_iters=num_sweeps, damping=0.0, temperature=1.0).ftov_msgs)
serve(lambda: sweeps(start).block_until_ready(), calls=1)
