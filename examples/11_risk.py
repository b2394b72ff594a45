"""A risk parameter: from the fear of the worst case, over the best policy on average, to the trajectory posterior.

The gamble of the risky branch, with a prize that makes it worth more than the sure thing, at eta from -3 to 1 /
temperature; then a world without a horizon, where too much fear and too much hope both have no answer. `--out DIR`
writes risk_dial.png of the method's page.
"""

import argparse
import re
from pathlib import Path

import cai

PRIZE, CHANCE = 5.0, 0.5  # worth 2.5, against 2 for sure
RISKY, WON = 1, 2  # an action and a state of the model
ETAS = (-3.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)


def main(*, quick: bool, out: Path | None) -> None:
    """Prints the dial in one decision, and its ends in a world that goes on."""
    branch = cai.load_model("risky_branch", prize=PRIZE, probability=CHANCE)
    dial(branch)
    ends()
    if out is not None:
        draw(branch, out)


def outcome(branch: cai.TrajectoryGraph, answer: cai.Posterior) -> tuple[float, float]:
    """Mean and standard deviation of what the policy earns in the world as it is."""
    real = cai.infer(branch, cai.PolicyEvaluation(answer))
    chances, worth = real.state_marginals[-1], branch.terminal_reward.values
    mean = float(chances @ worth)
    return mean, float(chances @ (worth - mean) ** 2) ** 0.5


def dial(branch: cai.TrajectoryGraph) -> None:
    """What is decided, what it is thought to be worth, and what comes of it."""
    print("   eta   pi(risky)   v(start)   p(wins | gambles)   return: mean   std dev   log evidence >=")
    for eta in ETAS:
        answer = cai.infer(branch, cai.RiskSensitiveControl(eta))
        mean, deviation = outcome(branch, answer)
        wins = answer.state_marginals[1, WON] / answer.state_action_marginals[0, 0, RISKY]
        print(
            f"{eta:6.2f} {answer.policy(0).probs[RISKY]:11.3f} {answer.v(0):10.3f} {wins:19.3f} {mean:14.3f} "
            f"{deviation:9.3f} {answer.log_evidence:17.3f}"
        )
    for name, method in (("fixed dynamics", cai.SoftValueIteration()), ("posterior", cai.SumProduct())):
        answer = cai.infer(branch, method)
        print(f"{name:15s} pi(risky) {answer.policy(0).probs[RISKY]:.3f}   v(start) {answer.v(0):.3f}")


def ends() -> None:
    """A coin that may be turned, a unit won or lost a step, discount 0.9, for ever: answers within bounds only."""
    coin = cai.load_model("two_state", rewards=(-1.0, 1.0), horizon=None, discount=0.9, temperature=0.5)
    print("   eta   v(loses)   v(wins)   pi(turns it to win)")
    for eta in (-1.2, -1.0, -0.5, -0.1, 0.0, 0.1, 0.2, 0.5):
        try:
            answer = cai.infer(coin, cai.RiskSensitiveControl(eta))
        except cai.IncompatibleMethod as error:
            way, gain, exponent = re.search(r"the value (\w+) .* g = (\S+) .* = (\S+) must", str(error)).groups()
            print(f"{eta:6.2f}   none: it {way}; g = {float(gain):.3f}, eta g + log(discount) = {float(exponent):.3f}")
            continue
        print(f"{eta:6.2f} {answer.v(0):10.3f} {answer.v(1):9.3f} {answer.policy(0).probs[1]:21.3f}")


def draw(branch: cai.TrajectoryGraph, out: Path) -> None:
    """Writes the choice against eta, and the mean of the return against its standard deviation."""
    from matplotlib.figure import Figure

    etas = [-3.0 + 4.0 * i / 80 for i in range(81)]
    answers = [cai.infer(branch, cai.RiskSensitiveControl(eta)) for eta in etas]
    outcomes = [outcome(branch, answer) for answer in answers]
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(etas, [float(answer.policy(0).probs[RISKY]) for answer in answers])
    left.set(xlabel="η, per unit of reward", ylabel="π(risky)", ylim=(0, 1))
    right.plot([deviation for _, deviation in outcomes], [mean for mean, _ in outcomes])
    right.set(xlabel="standard deviation of the return", ylabel="mean of the return")
    marks = {-3.0: "η = -3", -0.5: "η = -1/2", 0.0: "η = 0:\nfixed dynamics", 1.0: "η = 1/α:\nposterior"}
    for eta, label in marks.items():
        answer = cai.infer(branch, cai.RiskSensitiveControl(eta))
        mean, deviation = outcome(branch, answer)
        chance = float(answer.policy(0).probs[RISKY])
        for axes, x, y in ((left, eta, chance), (right, deviation, mean)):
            axes.plot(x, y, "o", color="C1", markersize=4)
            axes.annotate(label, (x, y), xytext=(7, -4), textcoords="offset points", va="top", fontsize=8)
    left.set(xlim=(-3.3, 2.1))
    right.set(xlim=(0.8, 2.9), ylim=(2.0, 2.5))
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "risk_dial.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: this example takes seconds")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
