"""Soft actor-critic against what is known: a linear system, a coin, a prior to stay near; then Pendulum-v1.

The default run takes some seconds. `--pendulum` trains on Pendulum-v1 with three seeds, ten thousand steps each, some
minutes in all, and compares with the soft-optimal answer on a grid; `--out DIR` writes the pictures of the tutorial.
"""

import argparse
import math
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

import cai
from cai.factors import MLPBody, greedy_action
from cai.methods import Annealed, PolyakTarget, TargetDivergence, TargetEntropy, UniformReplay

SEEDS = (0, 1, 2)


def main(*, pendulum: bool, out: Path | None) -> None:
    """Prints every number of the tutorial."""
    if not pendulum:
        linear_system()
        coin()
        near_a_prior()
        return
    runs = [train(seed) for seed in SEEDS]
    exact = on_a_grid(float(runs[0].graph.temperature))
    compare(runs[0], exact)
    if out is not None:
        from matplotlib import rcParams

        rcParams.update({"font.size": 9, "savefig.dpi": 110})
        out.mkdir(parents=True, exist_ok=True)
        draw_curves(runs, out)
        draw_maps(runs[0], exact, out)


class Quadratic(nn.Module):
    """A critic that is linear in its inputs and their products, as Q of a linear-quadratic problem is."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.rows, self.columns = torch.triu_indices(num_inputs, num_inputs)
        self.linear = nn.Linear(num_inputs + len(self.rows), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Computes `[*batch, inputs]` to `[*batch, outputs]`."""
        return self.linear(torch.cat([x, x[..., self.rows] * x[..., self.columns]], -1))


def linear_system() -> None:
    """A noisy linear system that the method can only step, against the Riccati equation."""
    graph = cai.load_model(
        "linear_quadratic", num_states=1, num_actions=1, noise=0.3, horizon=None, discount=0.8, temperature=0.5
    )
    method = cai.SoftActorCritic(
        num_steps=8_000,
        num_envs=4,
        updates_per_step=0.25,
        body=MLPBody(()),
        critic_body=Quadratic,
        learning_rate=Annealed(1e-2, 1e-4),
        target=PolyakTarget(0.02),
        replay=UniformReplay(4_000),
    )
    learned = cai.infer(graph.replace(horizon=8), method, seed=0)  # the horizon cuts episodes, and changes no value
    exact = cai.infer(graph, cai.SoftValueIteration())
    print("a linear system      state    V exact  learned   mean action exact  learned   std dev exact  learned")
    for x in (-1.0, 0.0, 1.0):
        state = torch.tensor([x])
        ours, truth = learned.policy(state), exact.policy(state)
        print(
            f"{x:26.1f} {exact.v(state):10.1f} {learned.v(state):8.1f} {truth.mean[0]:19.1f} {ours.mean[0] + 0.0:8.1f} "
            f"{truth.variance[0] ** 0.5:15.1f} {ours.stddev[0]:8.1f}"
        )


def coin() -> None:
    """Finite actions, where expectations over them are sums: the coin of `two_state`, the entropy form."""
    graph = cai.load_model("two_state", discount=0.8, horizon=None, temperature=0.5)
    method = cai.SoftActorCritic(
        num_steps=8_000,
        num_envs=8,
        updates_per_step=0.125,
        body=MLPBody(()),
        learning_rate=Annealed(0.05, 1e-3),
        target=PolyakTarget(0.05),
    )
    learned, exact = cai.infer(graph, method, seed=0), cai.infer(graph, cai.SoftValueIteration())
    gap = learned.gap(exact)
    print(f"a coin: pi(1) {learned.policy(0).probs[1]:.2f}, exactly {exact.policy(0).probs[1]:.2f}")
    print(f"        log evidence {learned.log_evidence:.1f}, exactly {exact.log_evidence:.1f}; KL {gap.kl:.2f} nats")


class Aim(gymnasium.Env):
    """One step; the nearer to 1 the better."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Begins at zero."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        """Pays -(a - 1)^2, and is over."""
        return np.zeros(1, np.float32), -float((action[0] - 1.0) ** 2), True, False, {}


def near_a_prior() -> None:
    """A normal prior N(0, 0.5^2): at the divergence that was asked for, the temperature is what it must be."""

    def prior(state: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(torch.zeros_like(state), 0.5), 1)

    graph = cai.from_gym(Aim(), discount=0.9).replace(action_prior=prior)
    method = cai.SoftActorCritic(
        num_steps=8_000,
        num_envs=8,
        updates_per_step=0.125,
        body=MLPBody(()),
        critic_body=Quadratic,
        learning_rate=Annealed(2e-2, 1e-4),
        temperature=TargetDivergence(0.3),
    )
    policy = (learned := cai.infer(graph, method, seed=0)).policy(torch.zeros(1))
    mean, std = float(policy.mean), float(policy.stddev)
    divergence = math.log(0.5 / std) + (std**2 + mean**2) / (2 * 0.5**2) - 0.5
    print(f"a prior: KL {divergence:.1f} nats, temperature {learned.graph.temperature:.1f}, mean action {mean:.1f}")


class Curve(cai.AbstractCallback):
    """Runs twenty episodes without chance every thousand steps."""

    def on_step(self, progress) -> None:
        """Logs the mean return."""
        if progress.num_steps % 1000 == 0:
            progress.metrics["evaluation"] = mean_return(progress.posterior())


def mean_return(posterior: cai.Posterior) -> float:
    """Twenty episodes side by side, reset with seeds 10000 to 10019."""
    envs = [gymnasium.make("Pendulum-v1") for _ in range(20)]
    states, total = np.stack([env.reset(seed=10_000 + i)[0] for i, env in enumerate(envs)]), 0.0
    for _ in range(200):
        actions = greedy_action(posterior.policy(states)).numpy()
        for i, env in enumerate(envs):
            states[i], reward, *_ = env.step(actions[i])
            total += reward
    return total / len(envs)


def train(seed: int) -> cai.Posterior:
    """Ten thousand steps of Pendulum-v1."""
    graph = cai.from_gym("Pendulum-v1", discount=0.99)
    method = cai.SoftActorCritic(num_steps=10_000, learning_rate=1e-3, temperature=TargetEntropy())
    posterior = cai.infer(graph, method, seed=seed, callbacks=[Curve()])
    curve = posterior.history.curve("evaluation")
    reached = curve.steps[curve.values >= -150][0]
    print(
        f"seed {seed}: {curve.values[-1]:.1f} after {curve.steps[-1]:,} steps, above -150 after {reached:,}; "
        f"temperature {posterior.graph.temperature:.3f}"
    )
    return posterior


def on_a_grid(temperature: float, num: int = 121) -> cai.Posterior:
    """The soft-optimal answer on a grid of angles, speeds and torques, linear in between: exact messages."""
    model = cai.load_model("pendulum")
    angles = torch.arange(num, dtype=torch.float64) * 2 * math.pi / num - math.pi
    speeds = torch.linspace(-8.0, 8.0, num, dtype=torch.float64)
    states = torch.cartesian_prod(angles, speeds)
    torques = torch.linspace(-2.0, 2.0, 21, dtype=torch.float64)
    index, weight, reward = [], [], []
    for torque in torques:
        action = torque.expand(len(states), 1)
        there = corners(model.dynamics.mean(states, action), num)
        index.append(there[0])
        weight.append(there[1])
        reward.append(model.reward(states, action))
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical(torch.full((num * num,), 1.0 / num**2, dtype=torch.float64)),
        cai.factors.TabularDynamics.from_successors(torch.stack(index, 1), torch.stack(weight, 1)),
        cai.factors.TabularReward(torch.stack(reward, 1)),
        discount=0.99,
        temperature=temperature,
    )
    return cai.infer(graph, cai.SoftValueIteration())


def corners(states: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The four nearest places of the grid, `[n, 4]`, and how much of each."""
    angle = torch.remainder((states[:, 0] + math.pi) * num / (2 * math.pi), num)
    speed = (states[:, 1] + 8.0) * (num - 1) / 16.0
    i, j = angle.floor(), speed.floor().clamp(max=num - 2)
    a, b = angle - i, speed - j
    places = [((i + x) % num) * num + j + y for x in (0, 1) for y in (0, 1)]
    weights = [(a if x else 1 - a) * (b if y else 1 - b) for x in (0, 1) for y in (0, 1)]
    return torch.stack(places, 1).long(), torch.stack(weights, 1)


def plane(num: int = 121) -> Tensor:
    """The observations at the places of the grid, `[num * num, 3]`."""
    angles = torch.arange(num) * 2 * math.pi / num - math.pi
    states = torch.cartesian_prod(angles, torch.linspace(-8.0, 8.0, num))
    return torch.stack([states[:, 0].cos(), states[:, 0].sin(), states[:, 1]], -1)


def maps(learned: cai.Posterior, exact: cai.Posterior) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and mean torques in the plane, learned and exact."""
    states, places = plane(), torch.arange(121 * 121)
    torque = exact.policy(places).probs @ torch.linspace(-2.0, 2.0, 21, dtype=torch.float64)
    mean = torch.stack([learned.policy(states).sample()[:, 0] for _ in range(200)]).mean(0)
    return {"soft value": (learned.v(states), exact.v(places)), "mean torque": (mean, torque)}


def compare(learned: cai.Posterior, exact: cai.Posterior) -> None:
    """How far the learned value is from the grid's, where the learned policy goes."""
    torch.manual_seed(0)
    run = learned.sample(20, seed=0, length=200)
    seen = run.states[:, :-1].reshape(-1, 3).double()
    index, weight = corners(torch.stack([torch.atan2(seen[:, 1], seen[:, 0]), seen[:, 2]], -1), 121)
    truth = (exact.v(index) * weight).sum(1)
    error = learned.v(seen) - truth
    print(
        f"V where it goes: {truth.mean():.1f} on the grid, {truth.std():.1f} its spread; learned less grid "
        f"{error.mean():.1f}, {error.std():.1f} its spread"
    )


def draw_curves(runs: list[cai.Posterior], out: Path) -> None:
    """Mean return, temperature and entropy against steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 2.7), layout="constrained")
    panels = {"evaluation": "mean return", "temperature": "temperature", "entropy": "entropy [nats]"}
    for axes, (name, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for seed, run in zip(SEEDS, runs, strict=True):
            curve = run.history.curve(name)
            axes.plot(curve.steps, curve.values, color=f"C{seed}", linewidth=1.2, label=f"seed {seed}")
        axes.set(xlabel="steps", ylabel=label)
    figure.axes[0].axhline(-150, color="0.6", linestyle=":", linewidth=1)
    figure.axes[1].set(yscale="log")
    figure.axes[0].legend(frameon=False)
    figure.savefig(out / "pendulum_curves.png")


def draw_maps(learned: cai.Posterior, exact: cai.Posterior, out: Path) -> None:
    """The plane of angle and speed: learned above, exact below; an episode of the learned policy over it."""
    from matplotlib.figure import Figure

    torch.manual_seed(0)
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    run = learned.sample(1, seed=3, length=200).states[0]
    angle, speed = torch.atan2(run[:, 1], run[:, 0]) / math.pi, run[:, 2]
    jumps = torch.where((angle.diff().abs() > 1), float("nan"), 0.0)
    for column, (name, pair) in enumerate(maps(learned, exact).items()):
        low, high = (float(f(t).item()) for f, t in ((torch.min, pair[1]), (torch.max, pair[1])))
        for row, (label, values) in enumerate(zip(("learned", "exact, on a grid"), pair, strict=True)):
            axes = panels[row, column]
            image = axes.imshow(
                values.reshape(121, 121).T.numpy(),
                origin="lower",
                extent=(-1, 1, -8, 8),
                aspect="auto",
                vmin=low,
                vmax=high,
                cmap="viridis" if column == 0 else "coolwarm",
            )
            axes.set(title=f"{name}, {label}")
        axes = panels[0, column]
        axes.plot(angle[1:] + jumps, speed[1:], color="white" if column == 0 else "black", linewidth=1)
        figure.colorbar(image, ax=panels[:, column], location="bottom", shrink=0.6)
    for axes in panels[:, 0]:
        axes.set(ylabel="speed [rad/s]")
    for axes in panels[1]:
        axes.set(xlabel="angle / π, 0 upright")
    figure.savefig(out / "pendulum_maps.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: without pictures this example takes seconds")
    parser.add_argument("--pendulum", action="store_true", help="train on Pendulum-v1, some minutes")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    main(pendulum=options.pendulum, out=options.out)
