"""Edit a trajectory: a courier's errand as a factor graph, with a goal, a memory, a waypoint, an exclusion, company.

Prints every number of tutorial 3. `--out DIR` writes its pictures, house_errand.png and house_couriers.png.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import cai

PLAN = ("..#..", ".....", "..#..", "..#..", ".....")
HOME, PARCEL, CHARGER, DOOR_A, DOOR_B = (2, 0), (2, 4), (4, 4), (1, 2), (4, 2)
LABELS = {HOME: "H", PARCEL: "P", CHARGER: "C", DOOR_A: "A", DOOR_B: "B"}
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0), (0, 0))  # left, down, right, up, stay
CELLS = [(row, column) for row, line in enumerate(PLAN) for column, mark in enumerate(line) if mark == "."]
STATE = {cell: state for state, cell in enumerate(CELLS)}
FORBIDDEN, T = -torch.inf, 20


def main(*, quick: bool, out: Path | None) -> None:
    """Prints every number of tutorial 3."""
    graphs = errand(house(horizon=T))
    answers = {name: cai.infer(graph, cai.SumProduct()) for name, graph in graphs.items()}
    sizes(graphs, answers)
    doors(answers)
    paths(graphs["+ exclusion"], answers["+ exclusion"])
    alone, apart = couriers(house(horizon=14), 14)
    company(alone, apart, 14)
    watch(graphs["+ exclusion"])
    elsewhere(graphs["+ exclusion"])
    if out is not None:
        draw(answers, alone, apart, out)


# -- the world --------------------------------------------------------------------------------------------------------


def house(horizon: int, start: tuple[int, int] = HOME) -> cai.TrajectoryGraph:
    """Two rooms with doors A and B; a move costs 1 and fails one time in ten, staying is free."""
    table = torch.zeros(len(CELLS), len(MOVES), len(CELLS), dtype=torch.float64)
    for (row, column), state in STATE.items():
        for action, (down, right) in enumerate(MOVES):
            table[state, action, STATE.get((row + down, column + right), state)] += 0.9
            table[state, action, state] += 0.1
    cost = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]).expand(len(CELLS), 5)
    cells = [5 * row + column for row, column in CELLS]
    return cai.TrajectoryGraph(
        initial=cai.factors.Delta(STATE[start]),
        dynamics=cai.factors.TabularDynamics(table),
        reward=cai.factors.TabularReward(-cost),
        horizon=horizon,
        temperature=0.5,
        state_space=cai.GridSpace(5, 5, cells, MOVES, [LABELS.get(cell, "") for cell in CELLS]),
    )


def arrival(variable: str, cell: tuple[int, int], worth: float = 20.0) -> cai.Factor:
    """A goal: `worth` nats for being in a cell (10 units of reward, at temperature 0.5)."""
    table = torch.zeros(len(CELLS), dtype=torch.float64)
    table[STATE[cell]] = worth
    return cai.Factor((variable,), table, "goal")


# -- one courier ------------------------------------------------------------------------------------------------------


def errand(world: cai.TrajectoryGraph) -> dict[str, cai.FactorGraph]:
    """The edits, one on top of the other."""
    unrolled = world.unroll()
    fetch = (
        unrolled.add_factors(arrival(f"s{T}", HOME))
        .add_visits("parcel", STATE[PARCEL])
        .condition({f"parcel{T}": 1})
        .add_visits("A", STATE[DOOR_A])
        .add_visits("B", STATE[DOOR_B])
    )
    waypoint = fetch.condition({"s10": STATE[CHARGER]})
    not_both = torch.tensor([[0.0, 0.0], [0.0, FORBIDDEN]], dtype=torch.float64)
    exclusion = waypoint.add_factors(cai.Factor((f"A{T}", f"B{T}"), not_both, "not both"))
    return {"unrolled": unrolled, "errand": fetch, "+ waypoint": waypoint, "+ exclusion": exclusion}


def sizes(graphs: dict[str, cai.FactorGraph], answers: dict[str, cai.FactorGraphPosterior]) -> None:
    """What each edit costs."""
    print("graph         variables   factors   width   largest table   log evidence")
    for name, graph in graphs.items():
        tree = graph.junction_tree()
        print(
            f"{name:12s} {len(graph.variables):10d} {len(graph.factors):9d} {tree.width:7d} {tree.largest:15,d} "
            f"{answers[name].log_evidence:14.3f}"
        )


def doors(answers: dict[str, cai.FactorGraphPosterior]) -> None:
    """Which doors are used, ever, and whether the courier is at home in the end."""
    print("graph         only A   only B    both   at home at t = 20   at C at t = 10")
    for name in ("errand", "+ waypoint", "+ exclusion"):
        used = answers[name].marginal(f"A{T}", f"B{T}")
        home, charger = answers[name].marginal(f"s{T}")[STATE[HOME]], answers[name].marginal("s10")[STATE[CHARGER]]
        print(f"{name:12s} {used[1, 0]:7.3f} {used[0, 1]:8.3f} {used[1, 1]:7.3f} {home:19.3f} {charger:16.3f}")


def paths(graph: cai.FactorGraph, answer: cai.FactorGraphPosterior) -> None:
    """Samples, and the most probable assignment."""
    episodes = answer.sample_trajectories(2000, seed=0)
    moved, visits = -episodes.returns().mean(), episodes.states == STATE[DOOR_A]
    print(f"2000 samples: {moved:.1f} moves tried, door A in {visits.any(1).double().mean():.2f} of them")
    mode = cai.infer(graph, cai.MaxProduct())
    best = mode.most_probable_assignment
    route = [CELLS[best[f"s{t}"]] for t in range(T + 1)]
    print(f"a most probable path: {_moves(route)} moves, probability {answer.log_prob(best).exp():.1e}")
    print("what to do at the charger at t = 10:     left    down   right      up    stay")
    for name, known in (("p(a | s)", {}), ("p(a | s, came by A)", {"A10": 1}), ("p(a | s, came by B)", {"B10": 1})):
        policy = cai.infer(graph.condition(known), cai.SumProduct()).policy(STATE[CHARGER], t=10).probs
        print(f"  {name:34s}" + "".join(f"{p:8.3f}" for p in policy))


def _moves(route: list[tuple[int, int]]) -> int:
    return sum(here != there for here, there in zip(route, route[1:], strict=False))


# -- two couriers -----------------------------------------------------------------------------------------------------


def couriers(world: cai.TrajectoryGraph, end: int) -> tuple[cai.FactorGraph, cai.FactorGraph]:
    """Two who change places, each for itself; and the same two kept apart, by two cells at least."""
    agents = []
    for name, start, goal in (("west.", HOME, PARCEL), ("east.", PARCEL, HOME)):
        walk = world.replace(initial=cai.factors.Delta(STATE[start])).unroll().add_factors(arrival(f"s{end}", goal))
        agents.append(walk.add_visits("A", STATE[DOOR_A]).rename(lambda variable, name=name: name + variable))
    alone = agents[0] | agents[1]
    where = torch.tensor(CELLS)
    distance = (where[:, None] - where).abs().sum(-1)
    apart = torch.where(distance < 2, FORBIDDEN, 0.0).double()
    ties = [cai.Factor((f"west.s{t}", f"east.s{t}"), apart, f"apart {t}") for t in range(end + 1)]
    return alone, alone.add_factors(*ties)


def company(alone: cai.FactorGraph, apart: cai.FactorGraph, end: int) -> None:
    """Who takes which door, and what the pair costs."""
    print("two couriers   both A   one A, one B   both B   width   largest table   log evidence")
    for name, graph in (("alone", alone), ("kept apart", apart)):
        answer = cai.infer(graph, cai.SumProduct())
        used = answer.marginal(f"west.A{end}", f"east.A{end}")
        mixed, tree = used[0, 1] + used[1, 0], graph.junction_tree()
        print(
            f"{name:12s} {used[1, 1]:8.3f} {mixed:14.3f} {used[0, 0]:8.3f} {tree.width:7d} {tree.largest:15,d} "
            f"{answer.log_evidence:14.3f}"
        )


# -- a camera ---------------------------------------------------------------------------------------------------------


def camera() -> Tensor:
    """Log p(reading | state), [22, 5]: a blurred view of the row, half as probable for each row that it is off."""
    rows = torch.arange(5)
    table = 0.5 ** (rows[:, None] - rows).abs().double()
    return (table / table.sum(1, keepdim=True))[[row for row, _ in CELLS]].log()


def watch(graph: cai.FactorGraph) -> None:
    """A simulated run behind the camera: what its readings say as they come in, and afterwards."""
    watched = graph.add_variables(*(cai.Variable(f"o{t}", 5) for t in range(T + 1)))
    seeing = camera()
    watched = watched.add_factors(*(cai.Factor((f"s{t}", f"o{t}"), seeing, f"camera {t}") for t in range(T + 1)))
    run = {name: int(value) for name, value in cai.infer(watched, cai.SumProduct()).sample(1, seed=0).items()}
    readings = {f"o{t}": run[f"o{t}"] for t in range(T + 1)}
    smoothed = cai.infer(watched.condition(readings), cai.SumProduct())
    print(" t   reading   true cell   p(true cell): no camera   so far   all readings   p(door A): so far")
    before = cai.infer(graph, cai.SumProduct())
    for t in range(0, T + 1, 2):
        filtered = cai.infer(watched.condition({f"o{u}": run[f"o{u}"] for u in range(t + 1)}), cai.SumProduct())
        truth = run[f"s{t}"]
        chances = [answer.marginal(f"s{t}")[truth] for answer in (before, filtered, smoothed)]
        print(
            f"{t:2d} {run[f'o{t}']:9d} {CELLS[truth]!s:>11s} {chances[0]:25.3f} {chances[1]:8.3f} {chances[2]:14.3f} "
            f"{filtered.marginal(f'A{T}')[1]:19.3f}"
        )


# -- other tools ------------------------------------------------------------------------------------------------------


def elsewhere(graph: cai.FactorGraph) -> None:
    """To Pyro, to UAI, and back."""
    program = graph.to_pyro()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "errand.uai"
        graph.to_uai(path)
        from_uai = cai.FactorGraph.from_uai(path, evidence=f"{path}.evid")
    print("                 variables   factors   log evidence   the first three")
    ways = {"as it is": graph, "by way of Pyro": cai.from_pyro(program), "by way of UAI": from_uai}
    for name, there in ways.items():
        evidence, names = cai.infer(there, cai.SumProduct()).log_evidence, [v.name for v in there.variables[:3]]
        print(f"{name:14s} {len(there.variables):11d} {len(there.factors):9d} {evidence:14.6f}   {' '.join(names)}")
    print(f"by Pyro's own enumeration {enumerated(program):24.6f}")


def enumerated(program: Callable[[], None]) -> float:
    """Log evidence by Pyro's own enumeration."""
    from pyro.infer import TraceEnum_ELBO

    return -TraceEnum_ELBO(max_plate_nesting=0).loss(program, lambda: None)


# -- pictures ---------------------------------------------------------------------------------------------------------


def draw(
    answers: dict[str, cai.FactorGraphPosterior], alone: cai.FactorGraph, apart: cai.FactorGraph, out: Path
) -> None:
    """Writes the marginals of the errand's edits under each other, and those of both couriers in two colours."""
    times = [2, 5, 8, 10, 13, 16, 19]
    rows = {}
    for name in ("errand", "+ waypoint", "+ exclusion"):
        rows[name] = [_shades({"#8c1d40": answers[name].state_marginals[t]}) for t in times]
    out.mkdir(parents=True, exist_ok=True)
    _filmstrip(rows, times, out / "house_errand.png")
    times = [0, 2, 4, 5, 6, 7, 8]
    rows = {}
    split = apart.condition({"west.A14": 1})
    for name, graph in (("alone", alone), ("kept apart", apart), ("apart,\nwest by A", split)):
        answer = cai.infer(graph, cai.SumProduct())
        colors = {"#1f5fa8": "west.", "#d96c06": "east."}
        rows[name] = [_shades({c: answer.marginal(f"{who}s{t}") for c, who in colors.items()}) for t in times]
    _filmstrip(rows, times, out / "house_couriers.png")


def _shades(marginals: dict[str, Tensor]) -> Tensor:
    """Mixes colours over the map, [5, 5, 3]: white where nobody is, the full colour at probability 1/2 and above."""
    from matplotlib.colors import to_rgb

    picture = torch.full((5, 5, 3), 0.75, dtype=torch.float64)
    for row, column in CELLS:
        picture[row, column] = 1.0
    for color, marginal in marginals.items():
        strength = (2 * marginal.detach()).clamp(max=1.0).sqrt()
        for (row, column), share in zip(CELLS, strength, strict=True):
            picture[row, column] *= 1.0 - share * (1.0 - torch.tensor(to_rgb(color), dtype=torch.float64))
    return picture


def _filmstrip(rows: dict[str, list[Tensor]], times: list[int], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=1.5, foreground="white")]
    figure = Figure(figsize=(1.35 * len(times) + 0.3, 1.4 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(times), squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=10)
        for ax, picture in zip(line, pictures, strict=True):
            ax.imshow(picture.numpy())
            ax.set(xticks=[], yticks=[])
            ax.set_xticks([i - 0.5 for i in range(1, 5)], minor=True)
            ax.set_yticks([i - 0.5 for i in range(1, 5)], minor=True)
            ax.grid(which="minor", color="0.85", linewidth=0.5)
            ax.tick_params(which="minor", length=0)
            for (row, column), label in LABELS.items():
                ax.text(column - 0.42, row - 0.42, label, ha="left", va="top", fontsize=7, path_effects=halo)
    for ax, t in zip(axes[0], times, strict=True):
        ax.set_title(f"t = {t}", fontsize=9)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: this example takes seconds")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
