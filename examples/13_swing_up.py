"""Swing up, hover, park: iterative LQR on differentiable models, its local optima, and planning again in a noisy world.

The pendulum of gymnasium's Pendulum-v1, from a plan for one start to an agent that acts in the environment; quadrotors
in gusts; a unicycle among obstacles. `--out DIR` writes the pictures of the tutorial.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import cai
from cai.plan import ReplanningPolicy

HANGING = torch.tensor([math.pi, 0.0], dtype=torch.float64)
#: A plan from nothing: the best of 64 first guesses, which are random torques.
THOROUGH = cai.ILQR(num_restarts=64, initial_noise=2.0, tolerance=1e-6)
STEPS = 200


def main(*, quick: bool, out: Path | None) -> None:
    """Prints every number of the tutorial."""
    least = dynamic_programming()
    plan = swing_up(least)
    guesses()
    environment(least, 2 if quick else 5)
    costs_of_a_plan()
    runs = in_noise(plan, 10 if quick else 50)
    hovering = quadrotors()
    parked = unicycles()
    if out is not None:
        from matplotlib import rcParams

        rcParams.update({"font.size": 9, "savefig.dpi": 110})
        out.mkdir(parents=True, exist_ok=True)
        draw_swing_up(plan, out)
        draw_noise(runs, out)
        draw_quadrotors(hovering, out)
        draw_unicycles(parked, out)


def swing_up(least: Callable[[Tensor], float]) -> cai.Posterior:
    """One plan, from hanging at rest."""
    pendulum = cai.load_model("pendulum", smooth=True, horizon=100, temperature=0.01)
    plan = cai.infer(pendulum, THOROUGH, seed=0)
    best, real = plan.most_probable_trajectory, cai.load_model("pendulum").reward
    spread = torch.stack([plan.policy(best.states[0, t], t).stddev[0] for t in range(100)])
    print(f"swings up: the angle ends at {best.states[0, -1, 0] / math.pi:.3f} pi, {plan.stats.num_steps} iterations")
    print(f"return of the plan               {plan.best_return:9.2f}")
    print(f"by the environment's own reward  {real(best.states[0, :-1], best.actions[0]).sum():9.2f}")
    print(f"by dynamic programming           {-least(HANGING):9.2f}")
    print(f"log evidence, Laplace            {plan.log_evidence:9.2f} nats")
    print(f"std dev of the torque            {spread.min():.2f} to {spread.max():.2f} newton metres")
    return plan


def dynamic_programming(num: int = 200) -> Callable[[Tensor], float]:
    """The least cost of 200 steps of Pendulum-v1 on a grid of angles and speeds, linear in between, nine torques."""
    pendulum = cai.load_model("pendulum")
    angles = torch.arange(num, dtype=torch.float64) * 2 * math.pi / num - math.pi
    speeds = torch.linspace(-8.0, 8.0, num + 1, dtype=torch.float64)
    states = torch.cartesian_prod(angles, speeds)
    steps = []
    for torque in torch.linspace(-2.0, 2.0, 9, dtype=torch.float64):
        action = torque.expand(len(states), 1)
        steps.append((-pendulum.reward(states, action), *corners(pendulum.dynamics.mean(states, action), num)))
    cost = torch.zeros(len(states), dtype=torch.float64)
    for _ in range(STEPS):
        cost = torch.stack([now + (cost[index] * weight).sum(0) for now, index, weight in steps]).amin(0)

    def cost_from(state: Tensor) -> float:
        index, weight = corners(state[None], num)
        return float((cost[index] * weight).sum())

    return cost_from


def corners(states: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The four grid points around each state, `[4, N]`, and their weights."""
    row, column = (states[:, 0] + math.pi) * num / (2 * math.pi), (states[:, 1] + 8.0) * num / 16.0
    i, j = row.floor(), column.floor().clamp(0, num - 1)
    up, right = row - i, column - j
    i, j = i.long(), j.long()
    index = torch.stack([(i + a) % num * (num + 1) + j + b for a in (0, 1) for b in (0, 1)])
    weight = torch.stack([(up if a else 1 - up) * (right if b else 1 - right) for a in (0, 1) for b in (0, 1)])
    return index, weight


def guesses() -> None:
    """Where single first guesses lead to, with the smooth reward and with the environment's."""
    print("first guess            smooth reward                environment's reward")
    for label, noise, number in (("no torque", 0.0, 1), ("64 random ones", 2.0, 64)):
        texts = []
        for smooth in (True, False):
            starts = HANGING.expand(number, 2)
            pendulum = cai.load_model("pendulum", smooth=smooth, horizon=75, start=starts, temperature=0.0)
            plans = cai.infer(pendulum, cai.ILQR(initial_noise=noise, tolerance=1e-6), seed=0)
            returns = plans.best_return.sort(descending=True).values
            same = int((returns > returns[0] - 0.5).sum())
            texts.append(f"{returns[0]:7.1f} ({same:2d} times) to {returns[-1]:7.1f}")
        print(f"{label:16s} {texts[0]}  {texts[1]}")


class Angle:
    """The state of the model for what Pendulum-v1 shows, (cos, sin, speed): the angle runs on where atan2 jumps."""

    last = torch.zeros((), dtype=torch.float64)

    def __call__(self, observation: Tensor) -> Tensor:
        """Gives (angle, speed), within half a turn of the angle before."""
        cosine, sine, speed = observation.double().unbind(-1)
        angle, turn = torch.atan2(sine, cosine), 2 * math.pi
        self.last = angle + turn * ((self.last - angle) / turn).round()
        return torch.stack([self.last, speed], -1)


def environment(least: Callable[[Tensor], float], num: int) -> None:
    """An agent in Pendulum-v1 that plans every half second, nearly four seconds ahead."""
    pendulum = cai.load_model("pendulum", smooth=True, horizon=75, temperature=0.0)
    agent = ReplanningPolicy(pendulum, THOROUGH, replan_every=10, state_of=Angle(), seed=0)
    episodes = cai.rollout("Pendulum-v1", agent, num, seed=0)
    idle = cai.rollout("Pendulum-v1", cai.UniformPolicy(), num, seed=0)
    print("seed   starts at   iLQR, replanned   dynamic programming   random torques")
    table = []
    for seed in range(num):
        start = Angle()(episodes.states[seed, 0])
        row = (episodes[seed].returns()[0], -least(start), idle[seed].returns()[0])
        print(f"{seed:4d} {start[0]:11.2f} {row[0]:17.1f} {row[1]:21.1f} {row[2]:16.1f}")
        table.append(row)
    means = [sum(float(row[k]) for row in table) / num for k in range(3)]
    print(f"mean {'':11s} {means[0]:17.1f} {means[1]:21.1f} {means[2]:16.1f}")


class Iterations(cai.AbstractCallback):
    """Notes the iterations of each plan."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_end(self, posterior: cai.Posterior | None) -> None:
        """Takes the plan down; None is one that failed."""
        if posterior is not None:
            self.counts.append(posterior.stats.num_steps)


def costs_of_a_plan() -> None:
    """Iterations of the plans of an episode in the model, each from the one before, and each from nothing."""
    pendulum = cai.load_model("pendulum", smooth=True, horizon=50, temperature=0.0, start=[2.0, 0.0])
    for label, memory in (("from the plan before", True), ("from no torque", False)):
        notes = Iterations()
        agent = ReplanningPolicy(pendulum, cai.ILQR(tolerance=1e-6), callbacks=[notes])
        cai.rollout(pendulum, agent if memory else agent.__call__, 1, seed=0, length=15)
        print(f"each plan {label:22s} {sum(notes.counts) / len(notes.counts):5.1f} iterations")


def in_noise(plan: cai.Posterior, num: int) -> dict[str, cai.Trajectories]:
    """The plan from hanging in a world with noise: as it stands, by its feedback, and made again every five steps."""
    world = cai.load_model("pendulum", smooth=True, horizon=100, noise=0.1)
    actions = plan.most_probable_trajectory.actions[0]
    again = ReplanningPolicy(
        cai.load_model("pendulum", smooth=True, horizon=50, temperature=0.0), THOROUGH, replan_every=5, seed=0
    )
    ways: dict[str, Callable] = {
        "the plan as it stands": lambda state, t: actions[t].expand(num, 1),
        "its feedback law": lambda state, t: plan.policy(state, t).mean,
        "a new plan every 5 steps": again,
    }
    runs = {}
    print("in noise                    mean return   std error   upright at the end")
    for label, way in ways.items():
        run = runs[label] = cai.rollout(world, way, num, seed=0)
        returns, upright = run.returns(), (run.states[:, -1, 0].cos() > 0.95).double().mean()
        print(f"{label:26s} {returns.mean():12.1f} {returns.std() / num**0.5:11.1f} {100 * upright:18.0f} %")
    return runs


def quadrotors() -> dict[str, cai.Trajectories | cai.Posterior]:
    """Twelve quadrotors, at all places and angles, go to one place, in one call; then in gusts."""
    turns = torch.arange(12, dtype=torch.float64) * math.pi / 6
    starts = torch.zeros(12, 6, dtype=torch.float64)
    starts[:, 0], starts[:, 1], starts[:, 2] = 1.5 * turns.cos(), 1.5 * turns.sin(), 2.0 * (turns - math.pi / 4).cos()
    world = cai.load_model("quadrotor", start=starts)
    plans = cai.infer(world, cai.ILQR())
    path = plans.most_probable_trajectory
    off = path.states[:, -1, :2].norm(dim=-1)
    print(f"12 quadrotors: {plans.stats.num_steps} iterations, at most {100 * off.max():.1f} cm off at the end")
    print(f"thrusts between {path.actions.min():.2f} and {path.actions.max():.2f} newtons")
    anywhere = cai.factors.Gaussian(torch.zeros(6), 0.5 * torch.eye(6))
    gusty = cai.load_model("quadrotor", noise=0.1).replace(initial=anywhere)
    model = cai.load_model("quadrotor", horizon=40, temperature=0.0)
    agent = ReplanningPolicy(model, cai.ILQR(tolerance=1e-4, max_iterations=20), replan_every=4)
    flights = cai.rollout(gusty, agent, 12, seed=0, length=160)
    away = flights.states[:, 120:, :2].norm(dim=-1)
    print(f"in gusts, the last second: {100 * away.mean():.1f} cm away on average, {100 * away.max():.1f} cm at most")
    return {"plans": plans, "flights": flights}


def unicycles() -> dict[str, cai.Posterior]:
    """Parking among obstacles: the plan, and how far the maximum-entropy policy around it strays, cold and warm."""
    answers = {}
    print("temperature   return of the plan   log evidence   std dev after 2 s   in the end")
    for temperature in (0.001, 0.1):
        lot = cai.load_model("unicycle", temperature=temperature)
        answer = answers[f"temperature {temperature}"] = cai.infer(lot, cai.ILQR())
        there, end = (answer.state_marginals[t].stddev[:2].norm() for t in (20, 40))
        print(
            f"{temperature:11.3f} {answer.best_return:20.3f} {answer.log_evidence:14.1f} {100 * there:16.1f} cm "
            f"{100 * end:9.1f} cm"
        )
    return answers


def draw_swing_up(plan: cai.Posterior, out: Path) -> None:
    """The pendulum every fifth step, over the torques of the plan with two standard deviations of the policy."""
    from matplotlib.figure import Figure

    path = plan.most_probable_trajectory
    states, torques = path.states[0], path.actions[0, :, 0]
    spread = 2 * torch.stack([plan.policy(states[t], t).stddev[0] for t in range(100)])
    times = 0.05 * torch.arange(100)
    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    film, curve = figure.subplots(2, 1, height_ratios=(1, 1.6), sharex=True)
    for t in range(0, 100, 5):
        x, y = 0.05 * t + 0.26 * states[t, 0].sin(), states[t, 0].cos()  # a rod, in units of either axis
        film.plot([0.05 * t, x], [0.0, y], color="C0", linewidth=1.5, alpha=0.35 + 0.65 * t / 100)
        film.plot(x, y, "o", color="C0", markersize=6, alpha=0.35 + 0.65 * t / 100)
    film.set(ylim=(-1.35, 1.35), yticks=[-1, 0, 1], yticklabels=["hanging", "", "upright"])
    curve.fill_between(times, torques - spread, torques + spread, step="post", color="C0", alpha=0.2, linewidth=0)
    curve.step(times, torques, where="post", color="C0")
    for limit in (-2.0, 2.0):
        curve.axhline(limit, color="0.5", linestyle=":", linewidth=1)
    curve.set(xlabel="time [s]", ylabel="torque [N m]", ylim=(-3.4, 3.4), xlim=(-0.2, 5.0))
    figure.savefig(out / "swing_up.png")


def draw_noise(runs: dict[str, cai.Trajectories], out: Path) -> None:
    """Angles of the episodes in noise, one panel a way of acting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 2.9), layout="constrained")
    for axes, (label, run) in zip(figure.subplots(1, 3, sharex=True, sharey=True), runs.items(), strict=True):
        for upright in (0, 2, 4):
            axes.axhline(upright, color="0.75", linewidth=1, zorder=0)
        axes.plot(0.05 * torch.arange(101), run.states[:30, :, 0].T / math.pi, color="C0", linewidth=0.7, alpha=0.6)
        axes.set(title=label, xlabel="time [s]", xlim=(0, 5), ylim=(-0.4, 4.4), yticks=[0, 1, 2, 3, 4])
    figure.axes[0].set(ylabel="angle / π (lines: upright)")
    figure.savefig(out / "swing_up_noise.png")


def draw_quadrotors(hovering: dict, out: Path) -> None:
    """Paths to the middle, with the bodies on the way: the plans, and flights in gusts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.7), layout="constrained")
    paths = {
        "plans, without wind": hovering["plans"].most_probable_trajectory.states,
        "in gusts, planned again every 0.1 s": hovering["flights"].states[:, :121],
    }
    for axes, (label, states) in zip(figure.subplots(1, 2, sharex=True, sharey=True), paths.items(), strict=True):
        for index, path in enumerate(states):
            axes.plot(path[:, 0], path[:, 1], color=f"C{index % 10}", linewidth=0.8, alpha=0.7)
            for x, y, tilt in path[:61:6, :3]:
                arm = 0.13 * torch.stack([tilt.cos(), tilt.sin()])
                axes.plot(
                    [x - arm[0], x + arm[0]], [y - arm[1], y + arm[1]], color=f"C{index % 10}", linewidth=2, alpha=0.8
                )
        axes.plot(0, 0, "k+", markersize=10)
        axes.set(title=label, xlabel="x [m]", aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    figure.axes[0].set(ylabel="y [m]")
    figure.savefig(out / "quadrotors.png")


def draw_unicycles(parked: dict[str, cai.Posterior], out: Path) -> None:
    """The plan among the obstacles, and samples of the policy around it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(8.6, 3.1), layout="constrained")
    for axes, (label, answer) in zip(figure.subplots(1, 2, sharex=True, sharey=True), parked.items(), strict=True):
        for x, y, radius in ((-1.2, -1.0, 0.45), (-0.6, 0.1, 0.35), (0.2, -0.9, 0.3)):
            axes.add_patch(Circle((x, y), radius, color="0.8"))
        samples = answer.sample(40, seed=1).states
        axes.plot(samples[..., 0].T, samples[..., 1].T, color="C0", linewidth=0.6, alpha=0.4)
        best = answer.most_probable_trajectory.states[0]
        axes.plot(best[:, 0], best[:, 1], color="C1", linewidth=2)
        axes.plot(best[0, 0], best[0, 1], "o", color="C1")
        axes.plot(0, 0, "k+", markersize=10)
        axes.set(title=label, xlabel="x [m]", aspect="equal")
    figure.axes[0].set(ylabel="y [m]")
    figure.savefig(out / "unicycle.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer episodes in noise")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
