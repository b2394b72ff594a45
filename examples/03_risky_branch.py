"""The risky branch: the trajectory posterior and the best policy disagree about one decision, and by how much.

Safe pays m for sure; risky pays x with probability p, else nothing. `--out DIR` writes risky_branch.png of tutorial 2.
"""

import argparse
from math import exp, log
from pathlib import Path

import cai

SAFE, PRIZE, CHANCE = 2.0, 4.0, 0.5  # the gamble is worth exactly the sure thing
RISKY, WON = 1, 2  # an action and a state of the model


def main(*, quick: bool, out: Path | None) -> None:
    """Prints every number of tutorial 2."""
    branch = cai.load_model("risky_branch", safe=SAFE, prize=PRIZE, probability=CHANCE)
    soft = cai.infer(branch, cai.SoftValueIteration())
    exact = cai.infer(branch, cai.SumProduct())
    answers(soft, exact)
    gap(soft, exact)
    returns(branch, soft, exact)
    gambles()
    if out is not None:
        draw(out)


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value))."""
    return 1 / (1 + exp(-value))


def answers(soft: cai.Posterior, exact: cai.Posterior) -> None:
    """The policies, their closed forms, and what each believes of the gamble."""
    tilted = log(CHANCE * exp(PRIZE) + 1 - CHANCE)
    print("                       fixed dynamics   posterior")
    print(f"pi(risky)              {soft.policy(0).probs[RISKY]:14.3f} {exact.policy(0).probs[RISKY]:11.3f}")
    print(f"by the closed form     {sigmoid(CHANCE * PRIZE - SAFE):14.3f} {sigmoid(tilted - SAFE):11.3f}")
    lucky = [answer.state_marginals[1, WON] / answer.state_action_marginals[0, 0, RISKY] for answer in (soft, exact)]
    print(f"p(wins | gambles)      {lucky[0]:14.3f} {lucky[1]:11.3f}")
    print(f"v(start)               {soft.v(0):14.3f} {exact.v(0):11.3f}")


def gap(soft: cai.Posterior, exact: cai.Posterior) -> None:
    """The evidence gap is the divergence of the two trajectory distributions."""
    between = soft.gap(exact)
    print(f"log p(O)               {exact.log_evidence:.6f} nats")
    print(f"bound                  {soft.log_evidence:.6f} nats")
    print(f"gap                    {between.evidence_gap:.6f} nats")
    print(f"KL(fixed || posterior) {between.kl:.6f} nats")


def returns(branch: cai.TrajectoryGraph, soft: cai.Posterior, exact: cai.Posterior) -> None:
    """What the two policies earn in the world as it is."""
    print("policy of              believes    earns   objective, r - alpha KL")
    for name, answer in (("fixed dynamics", soft), ("posterior", exact)):
        table = cai.factors.TabularPolicy(answer.policy(range(4)).probs)
        earned = cai.infer(branch, cai.PolicyEvaluation(table))
        objective = earned.log_evidence * branch.temperature
        print(f"{name:22s} {answer.expected_return:8.3f} {earned.expected_return:8.3f} {objective:9.3f}")


def gambles() -> None:
    """The longer the odds at equal worth, the more the posterior wants them; and it pays for it."""
    print("p(win)   prize   worth   pi(risky), fixed   pi(risky), posterior")
    for chance, prize in ((1.0, 2.0), (0.5, 4.0), (0.2, 10.0), (0.1, 20.0), (0.01, 200.0), (0.01, 150.0)):
        graph = cai.load_model("risky_branch", safe=SAFE, prize=prize, probability=chance)
        methods = (cai.SoftValueIteration(), cai.SumProduct())
        fixed, posterior = (cai.infer(graph, method).policy(0).probs[RISKY] for method in methods)
        print(f"{chance:6.2f} {prize:7.1f} {chance * prize:7.1f} {fixed:18.3f} {posterior:22.3f}")


def draw(out: Path) -> None:
    """Writes pi(risky) of both answers against the chance of winning, at equal worth."""
    from matplotlib.figure import Figure

    chances = [0.02 + 0.98 * i / 49 for i in range(50)]
    curves: dict[str, list[float]] = {"fixed dynamics": [], "posterior": []}
    for chance in chances:
        graph = cai.load_model("risky_branch", safe=SAFE, prize=SAFE / chance, probability=chance)
        for name, method in (("fixed dynamics", cai.SoftValueIteration()), ("posterior", cai.SumProduct())):
            curves[name].append(float(cai.infer(graph, method).policy(0).probs[RISKY]))
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, curve), style in zip(curves.items(), ("-", "--"), strict=True):
        axes.plot(chances, curve, style, label=name)
    axes.set(xlabel="p(win); the prize is worth 2 / p(win)", ylabel="π(risky)", ylim=(0, 1.05))
    axes.legend(frameon=False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "risky_branch.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: this example takes seconds")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
