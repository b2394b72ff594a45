"""All marginals of a factor graph, against pgmpy on the same UAI files.

    python benchmarks/factor_graphs.py --peer-python PATH/TO/python      (an environment with pgmpy 1.1.2)
    python benchmarks/factor_graphs.py                                   (without that peer)

Each row is one run: from the graph in memory to the marginals of all variables. Reading the file is not timed. Workers
are processes of their own and take turns. The last table has a wide grid, against two exponentials an entry.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def write_problems(folder: Path) -> None:
    """Writes Ising grids (12 x 6, 16 x 16; random fields and couplings) and a random tree (100 nodes of 10 values)."""
    import torch

    import cai

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def ising(rows: int, columns: int) -> cai.FactorGraph:
        spins = [[f"x{columns * i + j}" for j in range(columns)] for i in range(rows)]
        signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        factors = [cai.Factor((spin,), 0.3 * normal() * signs) for row in spins for spin in row]
        pairs = [(spins[i][j], spins[i][j + 1]) for i in range(rows) for j in range(columns - 1)]
        pairs += [(spins[i][j], spins[i + 1][j]) for i in range(rows - 1) for j in range(columns)]
        factors += [cai.Factor(pair, 0.5 * normal() * signs[:, None] * signs) for pair in pairs]
        return cai.FactorGraph([cai.Variable(spin, 2) for row in spins for spin in row], factors)

    ising(12, 6).to_uai(folder / "ising.uai")
    ising(16, 16).to_uai(folder / "wide.uai")

    parents = [int(torch.randint(node, (), generator=generator)) for node in range(1, 100)]
    factors = [cai.Factor(("x0",), normal(10))]
    factors += [cai.Factor((f"x{parent}", f"x{node}"), normal(10, 10)) for node, parent in enumerate(parents, 1)]
    variables = [cai.Variable(f"x{node}", 10) for node in range(100)]
    cai.FactorGraph(variables, factors).to_uai(folder / "tree.uai")


def cai_marginals(path: str) -> None:
    """All marginals and the log evidence by `SumProduct`."""
    from worker import serve

    import cai

    graph = cai.FactorGraph.from_uai(path)
    serve(lambda: cai.infer(graph, cai.SumProduct()).marginals)


def bare_exponentials(path: str) -> None:
    """The floor: one exponential an entry of each clique's table in each of the two passes, nothing else."""
    import torch
    from worker import serve

    import cai

    cliques = cai.FactorGraph.from_uai(path).junction_tree().cliques
    table = torch.rand(max(clique.num_entries for clique in cliques), dtype=torch.float64)

    def run() -> None:
        for clique in (*cliques, *cliques):
            table[: clique.num_entries].exp()

    serve(run, calls=1)


WORKERS = {"cai": cai_marginals, "floor": bare_exponentials}


def main() -> None:
    """Runs the director, or one of its workers."""
    from interleave import director_options, interleaved, report

    options = director_options(__doc__.splitlines()[0], WORKERS, peer="pgmpy 1.1.2", rounds=5)
    if options is None:
        return

    me = [sys.executable, str(Path(__file__).resolve()), "--worker"]
    with tempfile.TemporaryDirectory() as folder:
        write_problems(Path(folder))
        for name, title in (("ising", "Ising grid, 12 x 6"), ("tree", "random tree, 100 nodes of 10 values")):
            path = str(Path(folder) / f"{name}.uai")
            workers, against = {"cai SumProduct": [*me, "cai", path]}, "cai SumProduct"
            if options.peer_python:
                against = "pgmpy elimination"
                peer = [options.peer_python, str(HERE / "peers" / "pgmpy_marginals.py"), path]
                workers[against] = [*peer, "elimination"]
                if name == "tree":  # on the grid pgmpy's triangulation makes a clique of 19: minutes
                    workers["pgmpy junction tree"] = [*peer, "junction"]
            print(f"\n{title}")
            print(report(interleaved(workers, options.rounds), against))
        path = str(Path(folder) / "wide.uai")
        print("\nIsing grid, 16 x 16")
        workers = {"cai SumProduct": [*me, "cai", path], "bare exponentials": [*me, "floor", path]}
        print(report(interleaved(workers, options.rounds), "bare exponentials"))


if __name__ == "__main__":
    main()
