"""Factors of plain functions: what is called with what, batches, derivatives, files, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions
import pytest
import torch
from torch import Tensor

import cai
from cai.data import serialization
from cai.factors import protocols
from cai.factors.distributions import DegenerateNormal

F = cai.factors


def swing(state: Tensor, action: Tensor) -> Tensor:
    """A pendulum: angle and speed."""
    angle, speed = state.unbind(-1)
    speed = speed + 0.1 * (torch.sin(angle) + action[..., 0])
    return torch.stack([angle + 0.1 * speed, speed], -1)


def cost(state: Tensor, action: Tensor) -> Tensor:
    return -state.square().sum(-1) - action.square().sum(-1)


NOISE = np.diag([1e-4, 0.01])


@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
def test_dynamics_is_its_function(batch: tuple[int, ...]) -> None:
    state, action = torch.randn(*batch, 2, dtype=torch.float64), torch.randn(*batch, 1, dtype=torch.float64)
    dynamics = F.DifferentiableDynamics(swing, NOISE, state_size=2, action_size=1)
    assert torch.equal(dynamics.mean(state, action), swing(state, action))
    made = dynamics(state, action)
    assert isinstance(made, torch.distributions.MultivariateNormal)
    expected = torch.distributions.MultivariateNormal(swing(state, action), torch.as_tensor(NOISE)).log_prob(state)
    torch.testing.assert_close(made.log_prob(state), expected)
    assert torch.equal(dynamics.noise(2), torch.as_tensor(NOISE)[None])
    assert isinstance(dynamics, protocols.DifferentiableFactor)
    assert not isinstance(dynamics, protocols.LinearDynamics)
    assert not isinstance(dynamics, protocols.TabulatedDynamics)


def test_the_noise_decides_the_distribution() -> None:
    x, u = torch.zeros(2), torch.zeros(1)
    kinds = [
        (None, pyro.distributions.Delta),
        (np.zeros((2, 2)), pyro.distributions.Delta),
        (np.diag([0.0, 1.0]), DegenerateNormal),
        (NOISE, torch.distributions.MultivariateNormal),
    ]
    for noise, kind in kinds:
        made = F.DifferentiableDynamics(swing, noise)(x, u)
        assert isinstance(made, kind)
        assert made.sample().dtype == torch.float32  # the states' own, as the function's


def test_sizes_are_told_or_not() -> None:
    assert F.DifferentiableDynamics(swing).state_size is None
    assert F.DifferentiableDynamics(swing, NOISE).state_size == 2
    assert F.DifferentiableDynamics(swing, NOISE, action_size=1).action_size == 1
    assert F.DifferentiableDynamics(swing).noise(7) is None
    of_numpy = F.DifferentiableDynamics(swing, state_size=np.int64(2), action_size=np.int32(1))
    assert (of_numpy.state_size, of_numpy.action_size) == (2, 1)
    assert type(of_numpy.state_size) is type(of_numpy.action_size) is int  # as a file needs


def test_derivatives_by_torch_func() -> None:
    dynamics, reward = F.DifferentiableDynamics(swing, NOISE, action_size=1), F.FunctionReward(cost)
    x, u = torch.randn(9, 2, dtype=torch.float64), torch.randn(9, 1, dtype=torch.float64)
    in_state, in_action = torch.func.vmap(torch.func.jacrev(dynamics.mean, (0, 1)))(x, u)
    by_hand = torch.eye(2).double() + 0.1 * torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    expected = by_hand.expand(9, 2, 2).clone()
    expected[:, 0, 0] += 0.01 * x[:, 0].cos()
    expected[:, 1, 0] += 0.1 * x[:, 0].cos()
    torch.testing.assert_close(in_state, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(in_action, torch.tensor([[0.01], [0.1]]).double().expand(9, 2, 1))
    hessian = torch.func.vmap(torch.func.hessian(reward))(x, u)
    torch.testing.assert_close(hessian, -2 * torch.eye(2).double().expand(9, 2, 2))


def test_gradients_of_the_noise_and_of_what_the_function_holds() -> None:
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    root = torch.tensor([[0.5, 0.0], [0.2, 0.4]], dtype=torch.float64, requires_grad=True)
    x, u = torch.ones(2).double(), torch.ones(2).double()

    def read(weight: Tensor, root: Tensor) -> Tensor:
        return F.DifferentiableDynamics(lambda x, u: weight * x.sin() + u, root @ root.mT)(x, u).log_prob(x)

    assert torch.autograd.gradcheck(read, (weight, root))


def test_time_reaches_the_function_that_asks_for_it() -> None:
    dynamics = F.DifferentiableDynamics(lambda x, u, t: x + t * u, time_varying=True)
    reward = F.FunctionReward(lambda x, u, t: (t * x * u).sum(-1), time_varying=True)
    x, u = torch.ones(4, 1), torch.ones(4, 1)
    assert dynamics(x, u, t=3).mean.flatten().tolist() == [4.0] * 4
    assert reward(x, u, t=2).tolist() == [2.0] * 4
    slopes = torch.func.vmap(torch.func.jacrev(dynamics.mean, 1))(x, u, torch.arange(4))
    assert slopes.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]
    plain = F.FunctionReward(cost)
    assert torch.equal(plain(x, u, t=2), cost(x, u))
    assert F.DifferentiableDynamics(swing).mean(torch.zeros(2), torch.zeros(1), 5).tolist() == [0.0, 0.0]


def test_rewards_of_the_state_alone() -> None:
    reward = F.FunctionReward(lambda state: -state.abs().sum(-1))
    assert reward(torch.ones(3, 2)).tolist() == [-2.0] * 3
    with_time = F.FunctionReward(lambda state, t: t * state.sum(-1), time_varying=True)
    assert with_time(torch.ones(2), t=3) == 6.0


def test_numbers_of_every_kind() -> None:
    dynamics, reward = F.DifferentiableDynamics(swing), F.FunctionReward(cost)
    assert dynamics.mean([0, 1], [0]).dtype == torch.float64
    assert dynamics.mean(np.float32([0, 1]), np.float32([0])).dtype == torch.float32
    assert reward(np.ones(2), [1]).item() == -3.0


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no function": (lambda: F.DifferentiableDynamics(3.0), r"fn must be callable as fn\(state, action\), got float"),
    "no reward": (lambda: F.FunctionReward(torch.ones(2)), r"FunctionReward: fn must be callable .* got Tensor"),
    "size": (lambda: F.DifferentiableDynamics(swing, state_size=0), "state_size must be a whole number of at least 1"),
    "size true": (lambda: F.DifferentiableDynamics(swing, action_size=True), "action_size must be .* got True"),
    "covariance size": (
        lambda: F.DifferentiableDynamics(swing, np.eye(3), state_size=2),
        r"DifferentiableDynamics covariance is \[3, 3\], state_size 2 needs \[2, 2\]",
    ),
    "covariance oblong": (lambda: F.DifferentiableDynamics(swing, np.ones((2, 3))), r"is \[2, 3\], .* needs \[3, 3\]"),
    "variance": (lambda: F.DifferentiableDynamics(swing, 0.1), r"covariance: expected \[\*batch, n, n\], got \[\]"),
    "negative": (lambda: F.DifferentiableDynamics(swing, -np.eye(2)), "not positive semi-definite: .* -1"),
    "state": (
        lambda: F.DifferentiableDynamics(swing, state_size=2)(torch.zeros(3), torch.zeros(1)),
        r"DifferentiableDynamics: state: expected \[\.\.\., 2\], got \[3\]",
    ),
    "action": (
        lambda: F.DifferentiableDynamics(swing, action_size=1)(torch.zeros(2), torch.zeros(2)),
        r"DifferentiableDynamics: action: expected \[\.\.\., 1\], got \[2\]",
    ),
    "mean shape": (
        lambda: F.DifferentiableDynamics(lambda x, u: x.sum(-1))(torch.zeros(5, 2), torch.zeros(5, 1)),
        r"fn must return the mean of the next state, \[5, 2\], for state \[5, 2\] and action \[5, 1\], got \[5\]",
    ),
    "mean type": (
        lambda: F.DifferentiableDynamics(lambda x, u: 0.0)(torch.zeros(2), torch.zeros(1)),
        "fn must return the mean of the next state, .* got float",
    ),
    "reward shape": (
        lambda: F.FunctionReward(lambda x, u: x)(torch.zeros(5, 2), torch.zeros(5, 1)),
        r"FunctionReward: fn must return one reward for each of the batch, \[5\], got \[5, 2\]",
    ),
    "asked for another size": (
        lambda: F.DifferentiableDynamics(swing, NOISE).noise(3),
        "has 2 state coordinates, asked for 3",
    ),
}


@pytest.mark.parametrize(("build", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("time_varying", [False, True])
def test_a_file_keeps_all_but_the_function(time_varying: bool, tmp_path: Path) -> None:
    """The function is a hole with the name of its slot, which a graph with such a factor fills."""
    noise = torch.as_tensor(NOISE).requires_grad_()
    graph = cai.TrajectoryGraph(
        F.Delta([0.0, 1.0]),
        F.DifferentiableDynamics(swing, noise, action_size=1, time_varying=time_varying),
        F.FunctionReward(cost, time_varying=time_varying),
        horizon=3,
    )
    serialization.save(tmp_path / "file", "graph", {"graph": graph})
    asked: list[str] = []

    def fill(hole: str) -> Any:
        asked.append(hole)
        return {"graph.dynamics.fn": swing, "graph.reward.fn": cost}[hole]

    again = serialization.load(tmp_path / "file", "graph", fill)["graph"]
    assert asked == ["graph.dynamics.fn", "graph.reward.fn"]
    assert (again.dynamics.fn, again.reward.fn) == (swing, cost)
    assert (again.dynamics.state_size, again.dynamics.action_size) == (2, 1)
    assert again.dynamics.time_varying == again.reward.time_varying == time_varying
    assert torch.equal(again.dynamics.covariance, noise)
    assert again.dynamics.covariance.requires_grad
    assert (again.state_space, again.action_space) == (graph.state_space, graph.action_space)
