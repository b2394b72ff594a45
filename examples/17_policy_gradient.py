"""One gradient, many algorithms: the options of `PolicyGradient`, against exact answers and on CartPole.

Six settings learn the same posterior on a coin that one can try to turn; log(pi/mu) in the reward and as a bonus differ
where certainty costs something later; and the gradient of soft Q-learning is a policy gradient and a value gradient.
`--out DIR` trains four algorithms on CartPole-v1, three seeds each, and draws their curves.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import cai
from cai.factors import MLPBody
from cai.methods import (
    Annealed,
    Bonus,
    ClippedSurrogate,
    ImportanceWeighted,
    InReward,
    NaturalGradient,
    SeparateCritic,
    TrustRegion,
)

#: Without hidden layers a network on discrete states is a table.
TABLE = MLPBody(())
CRITIC = SeparateCritic(TABLE, learning_rate=Annealed(0.2, 0.01), batch_size=256)


def main(out: Path | None) -> None:
    """Prints what the tutorial quotes."""
    settings()
    where_the_entropy_enters()
    soft_q_learning()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw(cart_pole(), out)


def settings() -> None:
    """The same posterior by six settings, and how far from the exact one."""
    graph = cai.load_model("two_state", horizon=50, discount=0.9, temperature=0.5)
    exact = cai.infer(graph.replace(horizon=None), cai.SoftValueIteration())
    states = torch.arange(2)
    common = {"num_steps": 10_000, "num_envs": 16, "body": TABLE, "max_gradient_norm": None}
    make, decay = cai.PolicyGradient, Annealed(0.1, 0.0)
    methods = {
        "REINFORCE": make.reinforce(steps_per_rollout=32, learning_rate=decay, **common),
        "A2C": make.a2c(critic=CRITIC, learning_rate=decay, **common),
        "PPO": make.ppo(critic=CRITIC, steps_per_rollout=32, learning_rate=decay, **common),
        "natural gradient": make.natural(
            critic=CRITIC,
            steps_per_rollout=32,
            update=NaturalGradient(step=Annealed(2.0, 0.1)),
            standardised_advantages=False,
            **common,
        ),
        "TRPO": make.trpo(critic=CRITIC, steps_per_rollout=32, update=TrustRegion(Annealed(0.01, 1e-5)), **common),
        "off-policy": make(
            critic=CRITIC, steps_per_rollout=32, learning_rate=decay, update=ImportanceWeighted(num_reuses=4), **common
        ),
    }
    print("a coin to be turned         pi(1|s)         KL to the exact one   evidence bound, of", end="")
    print(f" {float(exact.log_evidence):.3f}")
    print(f"{'exact':20}{_probabilities(exact.policy(states).probs[:, 1])}")
    for name, method in methods.items():
        posterior = cai.infer(graph.replace(horizon=None) if method.critic else graph, method, seed=0)
        p, q = posterior.policy(states).probs.double(), exact.policy(states).probs
        divergence = (p * (p / q).log()).sum(-1).max()
        bound = cai.infer(exact.graph, cai.PolicyEvaluation(cai.factors.TabularPolicy(p))).log_evidence
        print(f"{name:20}{_probabilities(p[:, 1])}{divergence:16.4f}{float(bound):20.3f}")


def _probabilities(probs: torch.Tensor) -> str:
    return "".join(f"{float(prob):10.3f}" for prob in probs)


def crossroads(temperature: float = 1.0) -> cai.TrajectoryGraph:
    """Actions 0 to 3 lead to a room where one action of eight pays 3, the others to a room where all pay 1.7."""
    dynamics = np.zeros((4, 8, 4))
    dynamics[0, :4, 1] = dynamics[0, 4:, 2] = dynamics[1:, :, 3] = 1.0
    reward = np.zeros((4, 8))
    reward[1, 0], reward[2] = 3.0, 1.7
    return cai.TrajectoryGraph(
        cai.factors.Categorical([1.0, 0.0, 0.0, 0.0]),
        cai.factors.TabularDynamics(dynamics, terminal=[False, False, False, True]),
        cai.factors.TabularReward(reward),
        temperature=temperature,
    )


def where_the_entropy_enters() -> None:
    """Certainty in the first room costs 1.0 nats: it counts at the crossroads only if it is in the reward."""
    exact = cai.infer(crossroads(), cai.SoftValueIteration())
    print("\nto the room that asks for no choice, with probability")
    print(f"{'exact posterior':20}{float(exact.policy(0).probs[4:].sum()):8.2f}")
    for name, regulariser in (("in the reward", InReward()), ("as a bonus", Bonus())):
        method = cai.PolicyGradient.ppo(
            num_steps=30_000,
            num_envs=32,
            steps_per_rollout=16,
            regulariser=regulariser,
            body=TABLE,
            critic=SeparateCritic(TABLE, learning_rate=Annealed(0.1, 0.01), batch_size=256),
            learning_rate=Annealed(0.1, 0.0),
            update=ClippedSurrogate(num_epochs=4, batch_size=512),
        )
        posterior = cai.infer(crossroads(), method, seed=0)
        print(f"{name:20}{float(posterior.policy(0).probs[4:].sum()):8.2f}")


def soft_q_learning(alpha: float = 0.5) -> None:
    """With Q = V + alpha log(pi/mu): grad (Q - y)^2 / 2 = - alpha grad (E y - alpha KL) + grad (V - V_hat)^2 / 2."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3 + 1)).double()
    states, y = torch.randn(10, 4, dtype=torch.float64), torch.randn(10, 3, dtype=torch.float64)
    outputs = network(states)
    log_pi, v = outputs[:, :3].log_softmax(-1), outputs[:, 3]
    log_ratio = log_pi + torch.tensor(3.0).log()  # a uniform prior
    pi, fixed = log_pi.exp(), log_pi.detach().exp()  # actions are drawn from the policy as it stands
    q = v[:, None] + alpha * log_ratio
    soft_q = ((q - y) ** 2 / 2 * fixed).sum(-1).mean()
    objective = (pi * (y - alpha * log_ratio)).sum(-1)
    together = -alpha * objective.mean() + ((v - objective.detach()) ** 2 / 2).mean()
    one, other = (torch.autograd.grad(loss, network.parameters(), retain_graph=True) for loss in (soft_q, together))
    difference = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    print(f"\nsoft Q-learning and policy gradient: gradients agree to 1e-14: {difference < 1e-14}")


def cart_pole() -> dict[str, list[cai.History]]:
    """Four algorithms on CartPole-v1 at temperature 0, three seeds each, evaluated without chance now and then."""
    make, critic = cai.PolicyGradient, SeparateCritic(num_epochs=20, batch_size=128)
    quick = SeparateCritic(learning_rate=3e-3, num_epochs=5, batch_size=128)
    update = ClippedSurrogate(num_epochs=20, batch_size=256)
    methods = {
        "REINFORCE": (0.99, make.reinforce(num_steps=30_000)),
        "A2C": (0.98, make.a2c(num_steps=30_000, critic=quick)),
        "PPO": (0.98, make.ppo(num_steps=30_000, steps_per_rollout=64, learning_rate=1e-3, update=update)),
        "TRPO": (0.99, make.trpo(num_steps=30_000, steps_per_rollout=64, update=TrustRegion(0.02), critic=critic)),
    }
    histories = {}
    for name, (discount, method) in methods.items():
        graph = cai.from_gym("CartPole-v1", discount=discount, temperature=0.0)
        runs = [cai.infer(graph, method, seed=seed, callbacks=[cai.Evaluation(interval=2048)]) for seed in range(3)]
        histories[name] = [run.history for run in runs]
    return histories


def draw(histories: dict[str, list[cai.History]], out: Path) -> None:
    """A panel for each algorithm, a line for each seed, and their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 2.6), layout="constrained")
    for axes, (name, runs) in zip(figure.subplots(1, 4, sharex=True, sharey=True), histories.items(), strict=True):
        curves = [run.curve("evaluation_return") for run in runs]
        for curve in curves:
            axes.plot(curve.steps / 1000, curve.values, color="C0", linewidth=0.9, alpha=0.6)
        steps = np.linspace(max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves), 100)
        mean = np.mean([np.interp(steps, curve.steps, curve.values) for curve in curves], 0)
        axes.plot(steps / 1000, mean, color="C1", linewidth=2)
        axes.axhline(475, color="0.5", linestyle=":", linewidth=1)
        axes.set(title=name, xlabel="thousand steps", xlim=(0, 30), ylim=(0, 515))
    figure.axes[0].set(ylabel="return of 20 episodes")
    figure.savefig(out / "policy_gradients.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: without pictures this example takes seconds")
    parser.add_argument("--out", type=Path, help="where to write the picture")
    main(parser.parse_args().out)
