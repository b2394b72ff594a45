"""LQR is message passing: Riccati matrices are backward messages, and the two posteriors differ by what noise is worth.

A mass to push to a place (the model `double_integrator`) for pictures, one number to steer (`golden_ratio`) for closed
forms. `--out DIR` writes the pictures of the tutorial on LQR.
"""

import argparse
from math import sqrt
from pathlib import Path

import torch

import cai

HOT = 1e6  # a temperature at which a posterior is its prior
ALPHA = 0.1
ETAS = (-2.5, -1.5, -1.0, -0.5, 0.0, 1.0, 3.0, 10.0)


def main(*, quick: bool, out: Path | None) -> None:
    """Prints every number of the tutorial."""
    mass = cai.load_model("double_integrator", noise=1.5, error=1.0, temperature=0.1)
    soft, exact = cai.infer(mass, cai.SoftValueIteration()), cai.infer(mass, cai.SumProduct())
    messages(mass, soft)
    temperatures(mass)
    readings(mass, soft, exact)
    noise()
    luck()
    risk()
    golden_ratio()
    envelope()
    if out is not None:
        draw(soft, exact, out)


def in_the_world(answer: cai.Posterior) -> cai.Posterior:
    """An answer's policy, run in the dynamics as it is: made the prior, and asked when nothing else counts."""
    graph = answer.graph.replace(action_prior=answer.feedback, temperature=HOT)
    return cai.infer(graph, cai.SoftValueIteration())


def messages(mass: cai.TrajectoryGraph, soft: cai.Posterior) -> None:
    """Three steps of the recursion by hand, against the library."""
    a, b = mass.dynamics.a, mass.dynamics.b
    q, r, p = mass.reward.Q, mass.reward.R, mass.terminal_reward.Q
    print("  t   gain on x   gain on v   by hand                 std dev")
    for t in reversed(range(27, 30)):
        gain = -torch.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        p = q + a.T @ p @ (a + b @ gain)
        ours, spread = soft.feedback.gain[t], soft.feedback.covariance[t]
        library, hand = (" ".join(f"{value:{width}.4f}" for value in x[0]) for x, width in ((ours, 11), (gain, 8)))
        print(f"{t:3d} {library}   {hand} {sqrt(spread):13.4f}")


def temperatures(mass: cai.TrajectoryGraph) -> None:
    """The temperature spreads the actions and moves nothing else; noise does not even do that."""
    print("temperature   noise   mean of u_0   std dev of u_0   v(start)")
    for temperature, noise in ((0.1, 0.0), (0.1, 1.5), (1.0, 1.5), (0.0, 1.5)):
        graph = cai.load_model("double_integrator", noise=noise, error=1.0, temperature=temperature)
        answer = cai.infer(graph, cai.SoftValueIteration())
        start = mass.initial().mean
        policy = answer.policy(start)
        print(
            f"{temperature:11.1f} {noise:7.1f} {float(policy.mean):13.4f} {float(policy.stddev):16.4f} "
            f"{answer.v(start):10.3f}"
        )


def readings(mass: cai.TrajectoryGraph, soft: cai.Posterior, exact: cai.Posterior) -> None:
    """The gains, what each answer believes, and what its policy earns in the world as it is."""
    start = mass.initial().mean
    print("                 gain on x   gain on v   v(start)   return: believes    earns   log evidence")
    for name, answer in (("fixed dynamics", soft), ("posterior", exact)):
        gain = answer.feedback.gain[0]
        sign = ">=" if answer.is_bound else " ="
        print(
            f"{name:15s} {gain[0, 0]:10.4f} {gain[0, 1]:11.4f} {answer.v(start):10.3f} {answer.expected_return:18.3f} "
            f"{in_the_world(answer).expected_return:8.3f}     {sign} {answer.log_evidence:.3f}"
        )
    between = soft.gap(exact)
    print(f"gap {between.evidence_gap:.6f} nats, KL(fixed || posterior) {between.kl:.6f} nats")


def noise() -> None:
    """One number to steer, in the long run: the gain against the noise."""
    print("noise^2   gain, fixed   gain, posterior   by the closed form")
    for variance in (0.0, 0.1, 1.0, 10.0, 100.0):
        graph = cai.load_model("golden_ratio", noise=sqrt(variance), horizon=None)
        gains = [float(cai.infer(graph, m).feedback.gain) for m in (cai.SoftValueIteration(), cai.SumProduct())]
        p = 0.5 + sqrt(0.25 + 1 / (1 + variance))
        ahead = p / (1 + p * variance)
        print(f"{variance:7.1f} {gains[0]:13.4f} {gains[1]:17.4f} {-ahead / (1 + ahead):20.4f}")


def luck() -> None:
    """What nobody steers is steered by luck: x' = 1.1 x + w."""
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Gaussian([0.0], [[1.0]]),
        dynamics=cai.factors.LinearGaussianDynamics([[1.1]], [[0.0]], [[1.0]]),
        reward=cai.factors.QuadraticReward([[1.0]], [[1.0]]),
        horizon=40,
    )
    for name, method in (("fixed dynamics", cai.SoftValueIteration()), ("posterior", cai.SumProduct())):
        spread = cai.infer(graph, method).state_marginals.stddev[:, 0]
        print(f"{name:15s} std dev of x at t = 0, 20, 40: {spread[0]:6.3f} {spread[20]:8.3f} {spread[40]:9.3f}")


def risk() -> None:
    """A risk parameter: gains, and what the policy does in the world as it is, all in the long run."""
    graph = cai.load_model("golden_ratio", noise=0.5, horizon=None, temperature=ALPHA)
    print("   eta      gain   std dev of x   std dev of u   r + alpha H a step: believes   achieves")
    for eta in ETAS:
        try:
            answer = cai.infer(graph, cai.RiskSensitiveControl(eta))
        except cai.IncompatibleMethod:
            print(f"{eta:6.2f}   none: the fear grows without bound")
            continue
        real = in_the_world(answer)
        gain, rest = answer.feedback.gain, answer.policy([0.0])
        x, u = real.state_action_marginals.stddev
        achieved = -0.5 * (x**2 + u**2) + ALPHA * rest.entropy()
        print(f"{eta:6.2f} {float(gain):9.4f} {x:14.4f} {u:14.4f} {answer.gain:29.4f} {achieved:10.4f}")


def golden_ratio() -> None:
    """Without a horizon: the fixed point of the Riccati recursion."""
    answer = cai.infer(cai.load_model("golden_ratio", horizon=None), cai.SoftValueIteration())
    p = 2 * float(answer.v([0.0]) - answer.v([1.0]))
    print(f"P = {p:.12f}, (1 + sqrt 5) / 2 = {(1 + sqrt(5)) / 2:.12f}, in {answer.stats.num_steps} rounds")


def envelope() -> None:
    """The derivative of alpha log p(O) with respect to a linear term of the reward is minus the mean of the state."""
    push = torch.zeros(20, 1, dtype=torch.float64, requires_grad=True)
    graph = cai.load_model("golden_ratio", noise=1.0)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    graph = graph.replace(reward=cai.factors.QuadraticReward.per_step(one, one, q=push))
    for name, method in (("fixed dynamics", cai.SoftValueIteration()), ("posterior", cai.SumProduct())):
        answer = cai.infer(graph, method)
        (gradient,) = torch.autograd.grad(graph.temperature * answer.log_evidence, push)
        means = answer.state_marginals.mean[:20]
        print(f"{name:15s} E[x_1] = {means[1, 0]:.6f}, -d/dq_1 = {-gradient[1, 0]:.6f}")


def draw(soft: cai.Posterior, exact: cai.Posterior, out: Path) -> None:
    """Writes the tubes of one answer, those of two, a mass in a plane, and the risk dial."""
    from matplotlib.figure import Figure

    from cai import plots

    out.mkdir(parents=True, exist_ok=True)
    names = ["position x [m]", "velocity v [m/s]", "acceleration u [m/s²]"]
    plots.tubes(soft, names=names).savefig(out / "lqr_tubes.png", dpi=110)
    pair = plots.tubes(soft, exact, labels=["fixed dynamics", "posterior"], names=names)
    pair.savefig(out / "lqr_two_readings.png", dpi=110)
    start = [-2.0, 1.0, 1.0, 1.5]
    plane = cai.load_model("double_integrator", dimensions=2, noise=1.5, error=1.0, start=start, temperature=0.1)
    answers = [cai.infer(plane, method) for method in (cai.SoftValueIteration(), cai.SumProduct())]
    ax = plots.plane(*answers, labels=["fixed dynamics", "posterior"], names=("x [m]", "y [m]"))
    ax.figure.savefig(out / "lqr_plane.png", dpi=110)

    graph = cai.load_model("golden_ratio", noise=0.5, horizon=None, temperature=ALPHA)
    etas = [-1.5 + 11.5 * i / 60 for i in range(61)]
    answers = [cai.infer(graph, cai.RiskSensitiveControl(eta)) for eta in etas]
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(etas, [-float(answer.feedback.gain) for answer in answers])
    left.set(xlabel="η, per unit of reward", ylabel="-gain")
    spreads = [in_the_world(answer).state_action_marginals.stddev for answer in answers]
    right.plot([float(u) for _, u in spreads], [float(x) for x, _ in spreads])
    right.set(xlabel="standard deviation of the action", ylabel="standard deviation of the state")
    for eta, label in {-1.5: "η = -1.5", 0.0: "η = 0:\nfixed dynamics", 10.0: "η = 1/α:\nposterior"}.items():
        answer = cai.infer(graph, cai.RiskSensitiveControl(eta))
        x, u = (float(value) for value in in_the_world(answer).state_action_marginals.stddev)
        for axes, across, up in ((left, eta, -float(answer.feedback.gain)), (right, u, x)):
            axes.plot(across, up, "o", color="C1", markersize=4)
            axes.annotate(label, (across, up), xytext=(6, 4), textcoords="offset points", fontsize=8)
    left.set(xlim=(-2.5, 14.0), ylim=(0.15, 0.95))
    right.set(xlim=(0.33, 0.49), ylim=(0.48, 0.98))
    figure.savefig(out / "lqr_risk.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: this example takes seconds")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
