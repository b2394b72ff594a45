"""Backward and forward messages on a finite horizon, against `imitation`, Pyro and bare loops.

    python benchmarks/messages.py --peer-python PATH/TO/python      (an environment with imitation 1.0.1)
    python benchmarks/messages.py                                   (without that peer)

Each row is one run of everything: from the graph to all marginals. Building the graph (and the peer's environment) is
not timed. Workers are processes of their own and take turns.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def cai_500(method: str) -> None:
    """All marginals of the 500-state world by one of our methods."""
    from problems import graph_500
    from worker import serve

    import cai

    graph, chosen = graph_500(), getattr(cai, method)()
    serve(lambda: cai.infer(graph, chosen).state_action_marginals)


def loop_500() -> None:
    """The floor: the products and log-sum-exps of `SoftValueIteration` and nothing else, numpy and scipy."""
    import numpy as np
    from problems import random_500
    from worker import serve

    table, reward, initial, horizon = random_500()
    transposed, (rows, num_states) = table.T.tocsr(), table.shape
    num_actions = rows // num_states

    def run() -> None:
        q, v = np.zeros((horizon, num_states, num_actions)), np.zeros((horizon + 1, num_states))
        for t in reversed(range(horizon)):
            q[t] = reward[:, None] + (table @ v[t + 1]).reshape(num_states, num_actions)
            top = q[t].max(1)
            v[t] = top + np.log(np.exp(q[t] - top[:, None]).sum(1))
        policy, mass = np.exp(q - v[:-1, :, None]), initial
        for t in range(horizon):
            policy[t] *= mass[:, None]
            mass = transposed @ policy[t].ravel()

    serve(run)


def cai_chain(method: str) -> None:
    """All marginals of the small dense chain."""
    from problems import graph_chain
    from worker import serve

    import cai

    graph, chosen = graph_chain(), getattr(cai, method)()
    serve(lambda: cai.infer(graph, chosen).state_action_marginals)


def loop_chain() -> None:
    """The floor for the small chain: a bare torch loop of the same recursion."""
    import torch
    from problems import graph_chain
    from worker import serve

    graph = graph_chain()
    table, reward, initial = graph.dynamics.probs, graph.reward.values, graph.initial.probs
    num_states, num_actions, _ = table.shape
    rows, horizon = table.reshape(-1, num_states), graph.horizon

    def run() -> None:
        v, qs, vs = torch.zeros(num_states, dtype=torch.float64), [], []
        for _ in range(horizon):
            q = reward + (rows @ v).view(num_states, num_actions)
            v = torch.logsumexp(q, 1)
            qs.append(q)
            vs.append(v)
        policy = (torch.stack(qs[::-1]) - torch.stack(vs[::-1])[..., None]).exp()
        mass = initial
        for t in range(horizon):
            mass = (mass[:, None] * policy[t]).view(-1) @ rows

    serve(run)


def pyro_chain() -> None:
    """The same marginals by Pyro's enumeration."""
    import pyro.infer
    from problems import graph_chain
    from worker import serve

    program = graph_chain().to_pyro()
    elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=0)
    serve(lambda: elbo.compute_marginals(program, lambda: None), calls=1)


WORKERS = {
    "cai_500": cai_500,
    "loop_500": loop_500,
    "cai_chain": cai_chain,
    "loop_chain": loop_chain,
    "pyro_chain": pyro_chain,
}


def main() -> None:
    """Runs the director, or one of its workers."""
    from interleave import director_options, interleaved, report

    options = director_options(__doc__.splitlines()[0], WORKERS, peer="imitation 1.0.1", rounds=30)
    if options is None:
        return

    me = [sys.executable, str(Path(__file__).resolve()), "--worker"]
    workers = {f"cai {method}": [*me, "cai_500", method] for method in ("SoftValueIteration", "SumProduct")}
    workers["bare scipy loop"] = [*me, "loop_500"]
    against = "bare scipy loop"
    if options.peer_python:
        against = "imitation"
        workers[against] = [options.peer_python, str(HERE / "peers" / "imitation_messages.py")]
    print("500 states, 5 actions, horizon 50, 7,459 entries")
    print(report(interleaved(workers, options.rounds), against))
    workers = {f"cai {method}": [*me, "cai_chain", method] for method in ("SoftValueIteration", "SumProduct")}
    workers["bare torch loop"] = [*me, "loop_chain"]
    print("\n20 states, 4 actions, horizon 80, dense")
    print(report(interleaved(workers, options.rounds), "bare torch loop"))
    workers = {"cai SumProduct": [*me, "cai_chain", "SumProduct"], "Pyro enumeration": [*me, "pyro_chain"]}
    print("\nthe same against Pyro's enumeration of p(tau | O)")
    print(report(interleaved(workers, 3), "Pyro enumeration"))


if __name__ == "__main__":
    main()
