"""Build graphs: by hand, from gymnasium, from a model. Look at them and change them.

`--out DIR` writes the drawings of the docs: time_slice.png and unrolled.png.
"""

import argparse
from pathlib import Path

import torch

import cai


def corridor(num_states: int) -> cai.TrajectoryGraph:
    """A corridor with two actions, left and right, that slip one time in ten; its right end is the goal."""
    states = torch.arange(num_states)
    left, right = (states - 1).clamp(min=0), (states + 1).clamp(max=num_states - 1)
    table = torch.zeros(num_states, 2, num_states, dtype=torch.float64)
    for action, (meant, slipped) in enumerate([(left, right), (right, left)]):
        table[states, action, meant] += 0.9
        table[states, action, slipped] += 0.1
    goal = states == num_states - 1
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=(states == 0).double()),
        dynamics=cai.factors.TabularDynamics(table, terminal=goal),
        reward=cai.factors.TabularReward(-torch.ones(num_states, 2)),  # every step costs one
        terminal_reward=cai.factors.TabularReward(5.0 * goal),  # arriving is worth five
        horizon=10,
        temperature=0.5,
    )


def main(*, quick: bool, out: Path | None) -> None:
    """Prints what each graph is, and what conditioning does."""
    hall = corridor(5)
    print(f"corridor:       {hall.dynamics.num_states} states, {hall.dynamics.num_actions} actions, T = {hall.horizon}")

    lake = cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.1)
    print(
        f"FrozenLake-v1:  {lake.dynamics.num_states} states, {int(lake.dynamics.terminal_mask.sum())} of them terminal"
    )

    maze = cai.load_model("gridworld")
    print(f"gridworld:      {maze.dynamics.num_states} states, on a grid of {maze.state_space.num_rows} rows")

    # A changed copy, and more evidence than optimality: be at state 1 at t = 4.
    patient = hall.replace(temperature=5.0)
    delayed = hall.condition(states={4: 1})
    for name, graph in [("corridor", hall), ("temperature 5", patient), ("at state 1 at t = 4", delayed)]:
        answer = cai.infer(graph, cai.SumProduct())
        print(
            f"{name:20s} log p(O) = {answer.log_evidence:8.3f} nats, "
            f"p(at the goal at T) = {answer.state_marginals[-1, -1]:.3f}"
        )

    # The chain as a plain factor graph: every variable and factor can be taken out, and others put in.
    factors = hall.replace(horizon=2).unroll()
    print("unrolled:", " ".join(variable.name for variable in factors.variables))

    if out is not None:
        draw(hall, out)


def draw(graph: cai.TrajectoryGraph, out: Path) -> None:
    """Writes the drawing of one time slice, and of a small unrolled graph."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    for name, drawn in [("time_slice", graph), ("unrolled", graph.replace(horizon=2).unroll())]:
        axes = drawn.draw()
        axes.figure.savefig(out / f"{name}.png", dpi=110, bbox_inches="tight")
        plt.close(axes.figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: this example takes seconds")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
