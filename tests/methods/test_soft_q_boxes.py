"""Soft Q-learning on boxes: closed forms against quadrature, the sampler against rejection, answers against Riccati."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cai
from cai.methods import Quadratic, SamplerProposal, SoftQLearning, Stein, UniformProposal
from cai.methods.sampling.annealing import Annealed
from cai.methods.soft_q.quadratic import LinearQuadraticBody
from cai.methods.soft_q.stein import SteinLearner

SMALL = cai.factors.MLPBody((16,))


def box_graph(low: list[float], high: list[float], **options: object) -> cai.TrajectoryGraph:
    """A graph whose state does not matter: a point at rest."""
    size = len(low)
    dynamics = cai.factors.LinearGaussianDynamics(np.eye(2), np.zeros((2, size)))
    space = gymnasium.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    return cai.TrajectoryGraph(
        initial=cai.factors.Gaussian(np.zeros(2), np.eye(2)),
        dynamics=dynamics,
        reward=cai.factors.QuadraticReward(np.eye(2), np.eye(size)),
        action_space=space,
        **{"horizon": 10, "discount": 0.9, "temperature": 0.4} | options,
    )


def lattice(low: list[float], high: list[float], num: int) -> tuple[Tensor, float]:
    """Midpoints of cells, `[num^m, m]`, and the volume of a cell."""
    sides = torch.tensor(high, dtype=torch.float64) - torch.tensor(low, dtype=torch.float64)
    unit = torch.linspace(0.5 / num, 1 - 0.5 / num, num, dtype=torch.float64)
    points = torch.cartesian_prod(*[unit] * len(low)).reshape(-1, len(low))
    return torch.tensor(low) + points * sides, float((sides / num).prod())


def shaken(learner: object) -> None:
    """Gives all networks random parameters, so that nothing is special."""
    torch.manual_seed(3)
    for name in ("q", "target"):
        for parameter in learner.modules[name].parameters():
            parameter.data.normal_(0.0, 0.5)


# -- the quadratic head ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [None, cai.factors.FlatPrior()], ids=["uniform", "flat"])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("low, high", [([-1.0], [3.0]), ([-1.0, 0.0], [1.0, 0.5])], ids=["1", "2"])
def test_value_in_a_box_is_the_integral(prior: object, temperature: float, low: list, high: list) -> None:
    graph = box_graph(low, high, temperature=temperature, action_prior=prior)
    learner = SoftQLearning(head=Quadratic(SMALL)).learner(graph)
    shaken(learner)
    states = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    grid, volume = lattice(low, high, 4000 if len(low) == 1 else 300)
    with torch.no_grad():
        q = learner.q(states[:, None], grid).double()
        log_prior = 0.0 if prior is not None else -math.log(volume * len(grid))
        expected = temperature * (torch.logsumexp(q / temperature, -1) + math.log(volume) + log_prior)
        np.testing.assert_allclose(learner.v(states).numpy(), expected.numpy(), rtol=2e-4, atol=2e-4)
        density = learner.policy(states[:, None].expand(4, len(grid), 2)).log_prob(grid)
        ratio = (q - learner.v(states)[:, None]) / temperature + log_prior
        assert (density - ratio).abs().max() < 2e-3  # float32, at numbers up to some hundred


@pytest.mark.parametrize("size", [1, 3])
def test_value_and_policy_without_bounds_are_gaussian_integrals(size: int) -> None:
    alpha = 0.7
    graph = box_graph([-np.inf] * size, [np.inf] * size, temperature=alpha)
    learner = SoftQLearning(head=Quadratic(SMALL)).learner(graph)
    shaken(learner)
    states = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        policy, peak = learner.policy(states), learner.q(states, learner.policy(states).mean)
        precision = torch.linalg.inv(policy.covariance_matrix.double()) * alpha
        logdet = torch.logdet(2 * math.pi * alpha * torch.linalg.inv(precision))
        np.testing.assert_allclose(learner.v(states), peak + alpha / 2 * logdet, rtol=1e-4)
        actions = torch.randn(5, size)
        ratio = (learner.q(states, actions) - learner.v(states)) / alpha
        np.testing.assert_allclose(policy.log_prob(actions), ratio, rtol=1e-3, atol=1e-3)


def test_at_temperature_zero_the_value_is_the_greatest_q() -> None:
    learner = SoftQLearning(head=Quadratic(SMALL)).learner(box_graph([-1.0], [3.0], temperature=0.0))
    shaken(learner)
    states = torch.randn(4, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        q = learner.q(states[:, None], lattice([-1.0], [3.0], 4000)[0])
        np.testing.assert_allclose(learner.v(states), q.amax(-1), atol=1e-4)
        assert torch.equal(learner.policy(states).sample(), learner.policy(states).mean)
        choice = learner.act(states.numpy())
    assert ((choice.actions >= -1.0) & (choice.actions <= 3.0)).all()
    assert not choice.log_ratios.any()


def learned(graph: cai.TrajectoryGraph, seed: int, num_steps: int) -> cai.LearnedPosterior:
    method = SoftQLearning(
        num_steps=num_steps,
        num_envs=8,
        learning_starts=400,
        updates_per_step=0.5,
        head=Quadratic(LinearQuadraticBody(), learning_rate=Annealed(3e-2, 1e-4), target_rate=0.05),
    )
    return cai.infer(graph, method, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_linear_quadratic_problem_is_answered_as_by_riccati(seed: int) -> None:
    graph = cai.load_model("linear_quadratic", num_states=2, num_actions=2, horizon=None, discount=0.9, radius=0.8)
    exact = cai.infer(graph, cai.SoftValueIteration())
    ours = learned(graph.replace(horizon=50), seed, 20_000)
    states = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale = float(exact.v(states).std())
    assert (ours.v(states) - exact.v(states)).abs().max() < 0.05 * scale
    assert (ours.policy(states).mean - exact.policy(states).mean).abs().max() < 0.05
    variances = [posterior.policy(states[0]).variance.double() for posterior in (ours, exact)]
    np.testing.assert_allclose(variances[0], variances[1], rtol=0.05)


def test_quadratic_posterior_comes_back_from_a_file(tmp_path: Path) -> None:
    posterior = cai.infer(
        box_graph([-1.0], [1.0]), SoftQLearning(num_steps=200, batch_size=16, head=Quadratic(SMALL)), seed=0
    )
    posterior.save(tmp_path / "posterior")
    back = cai.load(tmp_path / "posterior")
    states, actions = torch.randn(3, 2), torch.rand(3, 1)
    assert torch.equal(back.q(states, actions), posterior.q(states, actions))
    assert torch.equal(back.v(states), posterior.v(states))


# -- the sampled head -----------------------------------------------------------------------------------------------


class Energy(nn.Module):
    """A known Q in the place of a network: `[..., n + m]` to `[1, ..., 1]`, of the units alone."""

    def __init__(self, of_units: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of_units = of_units

    def forward(self, x: Tensor) -> Tensor:
        return self.of_units(x[..., 2:])[None, ..., None]


def stein_learner(of_units: Callable[[Tensor], Tensor], *, size: int, **options: object) -> SteinLearner:
    torch.manual_seed(0)
    head = Stein(SMALL, cai.factors.MLPBody((64, 64)), heat=1.0, **options)
    graph = box_graph([-2.0] * size, [2.0] * size, temperature=0.5)
    learner = SoftQLearning(head=head).learner(graph)
    for name in ("q", "target"):
        learner.modules[name] = Energy(of_units)
    return learner


def two_hills(units: Tensor) -> Tensor:
    return -8.0 * (units[..., 0].abs() - 0.5).square()


@pytest.mark.parametrize("proposal", [UniformProposal(8), SamplerProposal(8), SamplerProposal(8, uniform_share=1.0)])
@pytest.mark.parametrize("size", [1, 2])
def test_weights_of_a_proposal_are_unbiased(proposal: object, size: int) -> None:
    torch.manual_seed(1)
    spread = torch.tensor([0.2, 1.5])[:size]
    drawn = proposal.draw(torch.Size([4000]), size, lambda num: 0.4 + spread * torch.randn(num, 4000, size))
    assert drawn.units.shape == (8, 4000, size)
    weights = (two_hills(drawn.units) / 0.5 - drawn.log_density).exp().mean(0).double()
    grid, volume = lattice([-1.0] * size, [1.0] * size, 2000 if size == 1 else 200)
    expected = float((two_hills(grid) / 0.5).exp().sum()) * volume
    assert abs(float(weights.mean()) - expected) < 5 * float(weights.std()) / math.sqrt(4000)


def test_value_and_density_of_a_free_q_are_the_integral() -> None:
    learner = stein_learner(two_hills, size=1)
    grid, volume = lattice([-2.0], [2.0], 2000)
    exact = 0.5 * (torch.logsumexp(two_hills(grid / 2) / 0.5, 0) + math.log(volume / 4.0))
    torch.manual_seed(0)
    with torch.no_grad():
        estimates = torch.stack([learner.v(torch.zeros(2)) for _ in range(200)]).double()
    error = float(estimates.std()) / math.sqrt(200)
    assert abs(float(estimates.mean() - exact)) < 5 * error + 1e-3  # biased low by some ten-thousandths
    log_density = learner.policy(torch.zeros(len(grid), 2)).log_prob(grid.float())
    assert abs(float(log_density.exp().sum()) * volume - 1.0) < 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sampler_draws_from_both_hills_as_rejection_does(seed: int) -> None:
    learner = stein_learner(two_hills, size=1, num_particles=48)
    torch.manual_seed(seed)
    states = torch.zeros(8, 2)
    for _ in range(500):
        learner._learn_sampler(states)
    drawn = learner.policy(torch.zeros(2)).sample((4000,))[:, 0] / 2.0
    tries = 2.0 * torch.rand(200_000, 1) - 1.0
    true = tries[torch.rand(len(tries)) < (two_hills(tries) / 0.5).exp(), 0]
    assert 0.35 < float((drawn > 0).float().mean()) < 0.65
    assert abs(float(drawn.abs().mean() - true.abs().mean())) < 0.05
    assert 0.6 < float(drawn.abs().std() / true.abs().std()) < 1.2  # Stein's particles keep closer together


def test_sampler_accounts_for_the_squashing() -> None:
    learner = stein_learner(lambda units: 1.5 * units[..., 0], size=1, num_particles=48)  # Q / alpha = 3 a
    states = torch.zeros(8, 2)
    for _ in range(500):
        learner._learn_sampler(states)
    mean = float(learner.policy(torch.zeros(2)).sample((8000,)).mean()) / 2.0
    assert abs(mean - (1 / math.tanh(3.0) - 1 / 3.0)) < 0.04  # .672; without the slope .487


def test_mode_is_near_a_hill_and_always_the_same() -> None:
    learner = stein_learner(two_hills, size=1)
    policy = learner.policy(torch.zeros(3, 2))
    assert torch.equal(policy.mode, policy.mode)
    assert policy.mode.shape == (3, 1)
    assert ((policy.mode.abs() - 1.0).abs() < 0.3).all()


@pytest.mark.parametrize(
    "head, changes, message",
    [
        (Stein(), {"temperature": 0.0}, "at temperature 0"),
        (Quadratic(), {"action_prior": cai.factors.Gaussian(np.zeros(1), np.eye(1))}, "uniform or flat"),
        (Stein(), {"action_prior": cai.factors.Gaussian(np.zeros(1), np.eye(1))}, "uniform or flat"),
    ],
    ids=["temperature", "quadratic prior", "stein prior"],
)
def test_refusals(head: object, changes: dict, message: str) -> None:
    with pytest.raises(cai.IncompatibleMethod, match=message):
        cai.infer(box_graph([-1.0], [1.0]).replace(**changes), SoftQLearning(head=head), seed=0)


def test_sampled_head_refuses_several_steps_of_reward() -> None:
    with pytest.raises(ValueError, match="n_step must be 1"):
        cai.infer(box_graph([-1.0], [1.0]), SoftQLearning(head=Stein(), n_step=3), seed=0)


@pytest.mark.parametrize("head", [Stein(), Quadratic()], ids=["stein", "quadratic"])
def test_finite_actions_are_refused(head: object) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="Network"):
        cai.infer(cai.load_model("two_state"), SoftQLearning(head=head), seed=0)
