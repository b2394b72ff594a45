"""The probes' closed forms against a soft dynamic programme on what they do when they are stepped."""

from __future__ import annotations

import numpy as np
import pytest

from tests.probes import PROBES, REACH, Probe

probes = pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
DISCOUNT = 0.8


def stepped_values(probe: Probe, temperature: float, grid: np.ndarray, *, flat: bool, depth: int) -> np.ndarray:
    """Computes V of `probe.pairs` by stepping the environment through every action of a grid, `depth` steps deep."""
    weight = probe.log_volume * temperature if flat else 0.0

    def value(pair: tuple[float, float], left: int) -> float:
        if left == 0:
            return 0.0
        outcomes = []
        for u in grid:
            reward, following, over = after(pair, u)
            outcomes.append(reward + (0.0 if over else DISCOUNT * value(following, left - 1)))
        q = np.array(outcomes)
        top = q.max()
        return top if temperature == 0 else top + temperature * np.log(np.exp((q - top) / temperature).mean()) + weight

    def after(pair: tuple[float, float], u: float) -> tuple[float, tuple[float, float], bool]:
        draws = [probe._after(pair, float(u)) for _ in range(400 if type(probe).__name__ == "RandomReward" else 1)]
        return float(np.mean([draw[0] for draw in draws])), draws[0][1], draws[0][2]

    probe.reset(seed=0)
    return np.array([value(tuple(pair), depth) for pair in probe.pairs])


@probes
@pytest.mark.parametrize("actions", ["discrete", "box"])
@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("flat", [False, True])
def test_closed_forms(probe: type[Probe], actions: str, temperature: float, flat: bool) -> None:
    made = probe(actions)
    grid = np.linspace(-1, 1, 3) if actions == "discrete" else (np.arange(100) + 0.5) / 50 - 1
    endless = made.limit > 0
    depth, grid = (60, grid[:1]) if endless else (2, grid)  # in which u makes no difference
    stepped = stepped_values(made, temperature, grid, flat=flat, depth=depth)
    exact = made.v(made.states, temperature=temperature, discount=DISCOUNT, flat=flat)
    tolerance = 5 * 0.5 / 20 if probe.__name__ == "RandomReward" else 0.02 if temperature == 0 else 1e-3
    np.testing.assert_allclose(stepped, exact, atol=tolerance)


@probes
@pytest.mark.parametrize("actions", ["discrete", "box"])
def test_policy_is_normalised_and_has_its_mean(probe: type[Probe], actions: str) -> None:
    made = probe(actions)
    options = {"temperature": 0.4, "discount": DISCOUNT}
    fine = np.arange(3) if actions == "discrete" else ((np.arange(4000) + 0.5) / 2000 - 1)[:, None] * REACH
    cell = 1.0 if actions == "discrete" else 2 * REACH / 4000
    states = made.states.repeat(len(fine), 0)
    density = np.exp(made.log_policy(states, np.concatenate([fine] * len(made.states)), **options)) * cell
    density = density.reshape(len(made.states), -1)
    np.testing.assert_allclose(density.sum(1), 1.0, atol=1e-6)
    np.testing.assert_allclose(density @ made.coordinate(fine), made.mean_coordinate(made.states, **options), atol=1e-6)


@probes
@pytest.mark.parametrize("states", ["vector", "index"])
def test_episodes(probe: type[Probe], states: str) -> None:
    env = probe(states=states)
    rng = np.random.default_rng(0)
    for seed in range(20):
        state, _ = env.reset(seed=seed)
        over, num_steps = False, 0
        while not over:
            state, _, terminated, truncated, _ = env.step(rng.integers(3))
            assert env.observation_space.contains(state)
            over, num_steps = terminated or truncated, num_steps + 1
        assert num_steps == (5 if env.limit > 0 else 2 if probe.__name__ in ("DelayedReward", "ChoiceReward") else 1)
