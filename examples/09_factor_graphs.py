"""Any factor graph: the sprinkler by hand, what evidence on the future means, and how large a graph may be.

Prints every number of the page on factor graphs. `--out DIR` writes its picture, sprinkler.png.
"""

import argparse
import textwrap
import time
from pathlib import Path

import torch

import cai


def main(*, quick: bool, out: Path | None) -> None:
    """Prints every number of the page."""
    garden = sprinkler()
    explaining_away(garden)
    gradients(garden)
    two_readings()
    refusals()
    how_large()
    how_long(largest=12 if quick else 14)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        garden.condition({"wet": 1}).draw().figure.savefig(out / "sprinkler.png", dpi=110, bbox_inches="tight")


# -- a graph by hand --------------------------------------------------------------------------------------------------


def sprinkler() -> cai.FactorGraph:
    """Cloudy or not, sprinkler, rain, wet grass: 0 is no, 1 is yes (Russell and Norvig 2010, figure 14.12)."""
    names = ("cloudy", "sprinkler", "rain", "wet")
    tables = {
        ("cloudy",): [0.5, 0.5],
        ("cloudy", "sprinkler"): [[0.5, 0.5], [0.9, 0.1]],
        ("cloudy", "rain"): [[0.8, 0.2], [0.2, 0.8]],
        ("sprinkler", "rain", "wet"): [[[1.0, 0.0], [0.1, 0.9]], [[0.1, 0.9], [0.01, 0.99]]],
    }
    factors = []
    for scope, probs in tables.items():
        name = scope[-1] if len(scope) == 1 else f"{scope[-1]} | {', '.join(scope[:-1])}"
        factors.append(cai.Factor(scope, torch.tensor(probs, dtype=torch.float64).log(), name))
    return cai.FactorGraph([cai.Variable(name, 2) for name in names], factors)


def explaining_away(garden: cai.FactorGraph) -> None:
    """What wet grass says of its causes, and what rain says of the sprinkler then."""
    print("evidence            log p(evidence)   p(sprinkler)   p(rain)")
    for known in ({}, {"wet": 1}, {"wet": 1, "rain": 1}):
        answer = cai.infer(garden.condition(known), cai.SumProduct())
        said = ", ".join(f"{name} = {value}" for name, value in known.items()) or "none"
        print(
            f"{said:18s} {answer.log_evidence:16.4f} {answer.marginal('sprinkler')[1]:14.3f} "
            f"{answer.marginal('rain')[1]:9.3f}"
        )
    best = cai.infer(garden.condition({"wet": 1}), cai.MaxProduct())
    print("most probable with wet grass:", best.most_probable_assignment)


def gradients(garden: cai.FactorGraph) -> None:
    """The slope of log Z in a factor's log table is the marginal of the factor's variables."""
    table = garden.factors[1].log_table.clone().requires_grad_()
    learnt = garden.without("sprinkler | cloudy").add_factors(cai.Factor(("cloudy", "sprinkler"), table))
    answer = cai.infer(learnt.condition({"wet": 1}), cai.SumProduct())
    (slope,) = torch.autograd.grad(answer.log_evidence, table)
    marginal = answer.marginal("cloudy", "sprinkler").detach()
    print("                      p(cloudy, sprinkler | wet)   d log p(wet) / d log p(sprinkler | cloudy)")
    for cloudy in (0, 1):
        beliefs, slopes = (" ".join(f"{x:.4f}" for x in row[cloudy]) for row in (marginal, slope))
        print(f"cloudy = {cloudy}   {beliefs:>37s} {slopes:>44s}")


# -- two readings of evidence on the future ---------------------------------------------------------------------------


def crossing(*, bridge: bool = True, discount: float = 1.0) -> cai.TrajectoryGraph:
    """From this bank (0) to the other (1): by a bridge that costs 2, or over ice that breaks (2) one time in two."""
    over_ice = [0.0, 0.5, 0.5]
    table = torch.tensor([[[0.0, 1.0, 0.0], over_ice], [[0.0, 1.0, 0.0]] * 2, [[0.0, 0.0, 1.0]] * 2])
    toll = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    return cai.TrajectoryGraph(
        initial=cai.factors.Delta(0),
        dynamics=cai.factors.TabularDynamics(table),
        reward=cai.factors.TabularReward(toll),
        action_prior=None if bridge else cai.factors.TabularPolicy(torch.tensor([[0.0, 1.0]] * 3)),
        horizon=1,
        discount=discount,
    )


def two_readings() -> None:
    """'Be on the other bank at t = 1' under fixed dynamics, and under Bayes' rule."""
    arrive = crossing().condition(states={1: 1})
    answers = [cai.infer(arrive, method) for method in (cai.SoftValueIteration(), cai.SumProduct())]
    policies = [answer.policy(range(3)).probs for answer in answers]
    acting = [cai.infer(crossing(), cai.PolicyEvaluation(cai.factors.TabularPolicy(probs))) for probs in policies]
    table = {
        "pi(bridge)": [probs[0, 0] for probs in policies],
        "p(there), as it believes": [answer.state_marginals[1, 1] for answer in answers],
        "p(there), acting by it": [answer.state_marginals[1, 1] for answer in acting],
        "log evidence, nats": [answer.log_evidence for answer in answers],
    }
    print("be there at t = 1          fixed dynamics   posterior")
    for name, (fixed, posterior) in table.items():
        print(f"{name:26s} {fixed:14.3f} {posterior:11.3f}")
    unrolled = cai.infer(crossing().unroll().condition({"s1": 1}), cai.SumProduct())
    same = torch.allclose(unrolled.policy(0).probs, policies[1][0], atol=1e-12)
    print(
        "unrolled, SumProduct says the same:", same and torch.allclose(unrolled.log_evidence, answers[1].log_evidence)
    )


def refusals() -> None:
    """Where evidence on the future is no question for a policy."""
    asked = {
        "no bridge": crossing(bridge=False).condition(states={1: 1}),
        "a discount of 0.9": crossing(discount=0.9).condition(states={1: 1}),
        "unrolled": crossing().unroll().condition({"s1": 1}),
    }
    print("be there at t = 1    SoftValueIteration   SumProduct, nats")
    for name, graph in asked.items():
        try:
            refused = f"{cai.infer(graph, cai.SoftValueIteration()).log_evidence:.3f}"
        except cai.IncompatibleMethod:
            refused = "IncompatibleMethod"
        print(f"{name:20s} {refused:18s} {cai.infer(graph, cai.SumProduct()).log_evidence:18.3f}")


# -- sizes ------------------------------------------------------------------------------------------------------------


def ising(side: int) -> cai.FactorGraph:
    """A square grid of binary variables with random fields and couplings."""
    generator = torch.Generator().manual_seed(0)
    names = [[f"x{row},{column}" for column in range(side)] for row in range(side)]
    pairs = [(names[i][j], names[i][j + 1]) for i in range(side) for j in range(side - 1)]
    pairs += [(names[i][j], names[i + 1][j]) for i in range(side - 1) for j in range(side)]
    scopes = [(name,) for row in names for name in row] + pairs
    tables = [torch.randn([2] * len(scope), generator=generator, dtype=torch.float64) for scope in scopes]
    factors = [cai.Factor(scope, table) for scope, table in zip(scopes, tables, strict=True)]
    return cai.FactorGraph([cai.Variable(name, 2) for row in names for name in row], factors)


def how_large() -> None:
    """Width and memory of square grids."""
    print("grid       variables   width   largest table   all tables   GiB held")
    for side in (4, 8, 12, 14, 16, 20, 32):
        tree = ising(side).junction_tree()
        held = tree.num_entries_held * 8 / 2**30
        print(
            f"{side:2d} x {side:2d} {side * side:12d} {tree.width:7d} {float(tree.largest):15.2g} "
            f"{float(tree.num_entries):12.2g} {held:10.2g}"
        )
    try:
        cai.infer(ising(20), cai.SumProduct(max_memory=4.0))
    except cai.IncompatibleMethod as error:
        print(textwrap.fill(str(error), 100))


def how_long(*, largest: int) -> None:
    """Seconds on this machine, which the docs do not quote."""
    for side in range(4, largest + 1, 2):
        start = time.perf_counter()
        marginals = cai.infer(ising(side), cai.SumProduct()).marginals
        print(f"{len(marginals)} marginals of a grid: {time.perf_counter() - start:.3f} s on this machine")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the grid that takes a second")
    parser.add_argument("--out", type=Path, help="folder for the picture")
    main(**vars(parser.parse_args()))
