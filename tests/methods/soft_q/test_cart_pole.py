"""The limit of temperature zero on CartPole-v1: the bar that deep Q-networks are measured by."""

from __future__ import annotations

from typing import Any

import pytest

import cai
from cai.methods import Annealed, EpsilonGreedy, HuberLoss, Network, PolyakTarget, UniformReplay


class ThreeRunning(cai.AbstractCallback):
    """Stops after three evaluations running with a mean return of 475."""

    def __init__(self) -> None:
        self.running = 0

    def on_step(self, progress: Any) -> None:
        mean = progress.metrics.get("evaluation_return")
        if mean is not None:
            self.running = self.running + 1 if mean >= 475.0 else 0
        if self.running == 3:
            raise cai.StopInference("solved")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cart_pole_within_fifty_thousand_steps(seed: int) -> None:
    """The command of docs/methods/soft_q_learning.md; it was seen to take some 20,000 steps."""
    head = Network(
        body=cai.factors.MLPBody((128, 128)),
        learning_rate=Annealed(2e-3, 1e-5),
        target=PolyakTarget(0.01),
        loss=HuberLoss(),
    )
    method = cai.SoftQLearning(
        num_steps=50_000,
        head=head,
        n_step=5,
        batch_size=64,
        learning_starts=1000,
        train_every=256,
        updates_per_step=0.5,
        replay=UniformReplay(100_000),
        exploration=EpsilonGreedy(Annealed(1.0, 0.04, share=0.16)),
    )
    graph = cai.from_gym("CartPole-v1", discount=0.99, temperature=0.0)
    solved = ThreeRunning()
    cai.infer(graph, method, seed=seed, callbacks=[cai.Evaluation(20, 2000), solved])
    assert solved.running == 3
