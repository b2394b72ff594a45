"""The peer's worker: all marginals of a UAI file by pgmpy 1.1.2.

`junction` calibrates one junction tree by belief propagation and reads every variable off it; `elimination` runs
variable elimination once a variable. The file is parsed here, since pgmpy's own reader takes minutes for it; that is
not timed in either case.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pgmpy.factors.discrete import DiscreteFactor
from pgmpy.inference import BeliefPropagation, VariableElimination
from pgmpy.models import DiscreteMarkovNetwork

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from worker import serve

path, way = sys.argv[1:]
words = iter(Path(path).read_text().split())
assert next(words) == "MARKOV"
sizes = [int(next(words)) for _ in range(int(next(words)))]
scopes = [[int(next(words)) for _ in range(int(next(words)))] for _ in range(int(next(words)))]
tables = [np.array([float(next(words)) for _ in range(int(next(words)))]) for _ in scopes]
model = DiscreteMarkovNetwork()
model.add_nodes_from(f"x{variable}" for variable in range(len(sizes)))
model.add_edges_from((f"x{scope[0]}", f"x{scope[1]}") for scope in scopes if len(scope) == 2)
for scope, table in zip(scopes, tables, strict=True):
    model.add_factors(DiscreteFactor([f"x{v}" for v in scope], [sizes[v] for v in scope], table))
model.check_model()
names = list(model.nodes())


def by_junction_tree() -> None:
    """Calibrates once; each marginal from a clique that holds the variable."""
    propagation = BeliefPropagation(model)
    propagation.calibrate()
    beliefs = propagation.get_clique_beliefs()
    for name in names:
        clique = min((c for c in beliefs if name in c), key=len)
        others = [other for other in clique if other != name]
        beliefs[clique].marginalize(others, inplace=False).normalize(inplace=False)


def by_elimination() -> None:
    """One query a variable."""
    engine = VariableElimination(model)
    for name in names:
        engine.query([name], show_progress=False)


serve({"junction": by_junction_tree, "elimination": by_elimination}[way], calls=1)
