"""Graphs of vectors: spaces, sizes and batches that must fit, and Pyro programs of them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS

import cai

F = cai.factors
N, M, T = 3, 2, 4


def box(size: int, limit: float = np.inf) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-limit, limit, (size,), np.float64)


def linear(num_states: int = N, num_actions: int = M, **options: Any) -> F.LinearGaussianDynamics:
    return F.LinearGaussianDynamics(np.eye(num_states), np.ones((num_states, num_actions)), **options)


def graph(**changes: Any) -> cai.TrajectoryGraph:
    parts = {
        "initial": F.Gaussian(np.zeros(N), np.eye(N)),
        "dynamics": linear(),
        "reward": F.QuadraticReward(np.eye(N), np.eye(M)),
        "terminal_reward": F.QuadraticReward(np.eye(N)),
        "horizon": T,
    }
    return cai.TrajectoryGraph(**(parts | changes))


# -- spaces -----------------------------------------------------------------------------------------------------------


def test_spaces_are_unbounded_boxes_by_default_and_kept() -> None:
    made = graph()
    assert (made.state_space, made.action_space) == (box(N), box(M))
    limits = gymnasium.spaces.Box(-1.0, 2.0, (M,), np.float32)
    limited = graph(action_space=limits)
    assert limited.replace(temperature=0.1, dynamics=linear(covariance=np.eye(N))).action_space is limits


def test_spaces_follow_a_dynamics_of_another_size() -> None:
    other = {
        "initial": F.Delta([0.0]),
        "dynamics": linear(1, 5),
        "reward": F.QuadraticReward([[1]], np.eye(5)),
        "terminal_reward": None,
    }
    assert graph(action_space=box(M, 1.0)).replace(**other).action_space == box(5)
    tables = cai.load_model("two_state")
    moved = tables.replace(**other, horizon=3)
    assert (moved.state_space, moved.action_space) == (box(1), box(5))
    back = moved.replace(**{slot: getattr(tables, slot) for slot in other})
    assert back.action_space == tables.action_space


def test_what_dynamics_does_not_tell_others_do() -> None:
    step = F.DifferentiableDynamics(lambda x, u: x + u.sum(-1, keepdim=True))
    assert graph(dynamics=step).state_space == box(N)
    assert graph(dynamics=step).action_space == box(M)
    plain = {"dynamics": step, "reward": F.FunctionReward(lambda x, u: x.sum(-1)), "terminal_reward": None}
    assert graph(**plain).state_space == box(N)
    assert graph(**plain).action_space is None
    assert graph(**plain, initial=F.Delta(np.zeros(2))).state_space == box(2)
    assert graph(**plain, action_prior=F.Gaussian(np.zeros(5), np.eye(5))).action_space == box(5)
    assert graph(**plain, action_space=box(5, 1.0)).action_space == box(5, 1.0)
    silent = graph(**plain, initial=lambda: torch.distributions.Normal(torch.zeros(3), 1.0))
    assert silent.state_space is silent.action_space is None


def test_other_callables_are_left_alone() -> None:
    made = graph(dynamics=lambda x, u: torch.distributions.Normal(x, 1.0), reward=lambda x, u: x.sum(-1))
    assert made.state_space is made.action_space is None


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "initial": ({"initial": F.Gaussian([0.0], [[1.0]])}, "initial: Gaussian has 1 coordinates, the dynamics 3"),
    "delta": (
        {"initial": F.Delta([0.0, 1.0])},
        r"initial: Delta of shape \[2\] is not a state of 3 coordinates, \[\*batch, 3\]",
    ),
    "delta of a discrete state": ({"initial": F.Delta(2)}, r"initial: Delta of shape \[\] is not a state of 3"),
    "reward states": (
        {"reward": F.QuadraticReward(np.eye(2), np.eye(M))},
        "reward: QuadraticReward is for 2 state coordinates, the dynamics has 3",
    ),
    "reward actions": (
        {"reward": F.QuadraticReward(np.eye(N), np.eye(5))},
        "reward: QuadraticReward is for 5 action coordinates, the dynamics has 2",
    ),
    "terminal states": (
        {"terminal_reward": F.QuadraticReward(np.eye(2))},
        "terminal_reward: QuadraticReward is for 2 state coordinates, the dynamics has 3",
    ),
    "terminal of actions": (
        {"terminal_reward": F.QuadraticReward(np.eye(N), np.eye(M))},
        "terminal_reward: expected a reward of the last state alone",
    ),
    "terminal of time": (
        {"terminal_reward": F.QuadraticReward.per_step(np.ones((T, N, N)))},
        "terminal_reward: expected a reward of the last state alone",
    ),
    "prior": (
        {"action_prior": F.Gaussian(np.zeros(5), np.eye(5))},
        "action_prior: Gaussian has 5 coordinates, the dynamics 2 of actions",
    ),
    "prior policy": (
        {"action_prior": F.LinearGaussianPolicy(np.ones((M, 2)), covariance=np.eye(M))},
        "action_prior: LinearGaussianPolicy is for 2 state and 2 action coordinates, the dynamics has 3 and 2",
    ),
    "prior without density": (
        {"action_prior": F.LinearGaussianPolicy(np.ones((M, N)))},
        "action_prior: LinearGaussianPolicy has a zero covariance",
    ),
    "prior of sets": (
        {"action_prior": F.FlatPrior(np.ones((2, 2), dtype=bool))},
        r"action_prior: FlatPrior\(available\) is for finitely many actions",
    ),
    "state space": ({"state_space": box(2)}, r"state_space: the dynamics has vectors of 3 coordinates, .* Box"),
    "state space of grids": (
        {"state_space": gymnasium.spaces.Box(0, 1, (N, 1))},
        "state_space: the dynamics has vectors of 3",
    ),
    "action space": (
        {"action_space": gymnasium.spaces.Discrete(2)},
        r"action_space: the dynamics has vectors of 2 coordinates, the space given is Discrete\(2\)",
    ),
    "dynamics steps": ({"dynamics": F.LinearGaussianDynamics.per_step(np.ones((5, N, N)), np.ones((1, N, M)))}, "5 st"),
    "reward steps": (
        {"reward": F.QuadraticReward.per_step(np.ones((3, N, N)))},
        "reward: it is for 3 steps, the horizon is 4",
    ),
    "prior steps": (
        {"action_prior": F.LinearGaussianPolicy.per_step(np.ones((2, M, N)), covariance=np.eye(M)[None])},
        "action_prior: .* 2 steps",
    ),
    "batches": (
        {
            "dynamics": F.LinearGaussianDynamics(np.ones((5, N, N)), np.ones((N, M))),
            "reward": F.QuadraticReward(np.ones((4, N, N))),
        },
        r"reward: its batch \[4\] does not broadcast with \[5\] of dynamics",
    ),
    "batch of starts": (
        {"initial": F.Delta(np.zeros((5, N))), "terminal_reward": F.QuadraticReward(np.ones((4, N, N)))},
        r"terminal_reward: its batch \[4\] does not broadcast with \[5\] of initial",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused_when_made_and_when_replaced(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph(**changes)
    with pytest.raises(ValueError, match=message):
        graph().replace(**changes)


@pytest.mark.parametrize("horizon", [1, T, None])
def test_a_time_axis_of_one_is_for_every_horizon(horizon: int | None) -> None:
    made = graph(
        dynamics=F.LinearGaussianDynamics.per_step(0.5 * np.eye(N)[None], np.ones((1, N, M))),
        reward=F.QuadraticReward.per_step(np.eye(N)[None], np.eye(M)[None]),
        action_prior=F.LinearGaussianPolicy.per_step(np.ones((1, M, N)), covariance=np.eye(M)[None]),
        terminal_reward=None if horizon is None else F.QuadraticReward.per_step(np.eye(N)[None]),
        horizon=horizon,
    )
    plain = made.replace(
        dynamics=F.LinearGaussianDynamics(0.5 * np.eye(N), np.ones((N, M))),
        reward=F.QuadraticReward(np.eye(N), np.eye(M)),
        action_prior=F.LinearGaussianPolicy(np.ones((M, N)), covariance=np.eye(M)),
        terminal_reward=None if horizon is None else F.QuadraticReward(np.eye(N)),
    )
    values = [cai.infer(each, cai.SoftValueIteration()).v(np.ones(N)) for each in (made, plain)]
    assert values[0] == values[1]
    assert len(cai.rollout(made, lambda x, t: torch.zeros(M), 2, seed=0, length=3 if horizon is None else None)) == 2


def test_batches_that_broadcast() -> None:
    graph(
        initial=F.Delta(np.zeros((2, 1, N))),
        dynamics=F.LinearGaussianDynamics(np.ones((5, N, N)), np.ones((N, M))),
        reward=F.QuadraticReward(np.eye(N), constant=np.zeros((2, 5))),
    )


def test_evidence_needs_tables() -> None:
    with pytest.raises(ValueError, match="condition: "):
        graph().condition(states={1: 0})


# -- Pyro -------------------------------------------------------------------------------------------------------------


def random_graph(**changes: Any) -> cai.TrajectoryGraph:
    """Everything at once, in two state coordinates and one of action, at two steps that differ."""
    rng = np.random.default_rng(7)
    spread = np.array([[0.5, 0.1], [0.1, 0.4]])
    parts = {
        "initial": F.Gaussian(rng.normal(size=2), spread),
        "dynamics": F.LinearGaussianDynamics.per_step(
            rng.normal(size=(2, 2, 2)),
            rng.normal(size=(2, 2, 1)),
            np.stack([spread, 2 * spread]),
            rng.normal(size=(2, 2)),
        ),
        "reward": F.QuadraticReward.per_step(
            np.stack([np.eye(2), 2 * np.eye(2)]), np.ones((1, 1, 1)), cross=rng.normal(size=(2, 1, 2)) / 4
        ),
        "terminal_reward": F.QuadraticReward.around([1.0, -1.0], np.eye(2)),
        "action_prior": F.LinearGaussianPolicy(rng.normal(size=(1, 2)), [0.3], [[0.7]]),
        "horizon": 2,
        "temperature": 0.8,
    }
    return cai.TrajectoryGraph(**(parts | changes))


SITES = {"s0": 2, "a0": 1, "s1": 2, "a1": 1, "s2": 2}


def log_joint(made: cai.TrajectoryGraph, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """The density of a trajectory, term by term."""
    total, alpha, state = made.initial().log_prob(values["s0"]), made.temperature, values["s0"]
    for t in range(made.horizon or 0):
        action, following = values[f"a{t}"], values[f"s{t + 1}"]
        if made.action_prior is not None:
            total = total + made.action_prior(state, t).log_prob(action)
        total = total + made.dynamics(state, action, t).log_prob(following)
        total = total + made.reward(state, action, t=t) / alpha
        state = following
    return total + made.terminal_reward(state) / alpha


def values(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, dtype=torch.float64, generator=generator) for name, size in SITES.items()}


def density_of(program: Any, at: dict[str, torch.Tensor]) -> torch.Tensor:
    return poutine.trace(poutine.condition(program, data=at)).get_trace().log_prob_sum()


@pytest.mark.parametrize("prior", ["policy", "gaussian", "flat", None])
def test_the_program_has_the_graphs_density(prior: str | None) -> None:
    changes: dict[str, Any] = {"gaussian": {"action_prior": F.Gaussian([0.1], [[2.0]])}, None: {"action_prior": None}}
    changes["flat"] = {"action_prior": F.FlatPrior()}
    made = random_graph(**changes.get(prior, {}))
    plain = made.replace(action_prior=None) if prior == "flat" else made
    for seed in range(5):
        torch.testing.assert_close(density_of(made.to_pyro(), values(seed)), log_joint(plain, values(seed)))


def test_functions_of_time_in_a_program() -> None:
    made = random_graph(
        dynamics=F.DifferentiableDynamics(lambda x, u, t: (1 + t) * x.sin() + u, np.eye(2), time_varying=True),
        reward=F.FunctionReward(lambda x, u, t: -t * x.square().sum(-1) - u.square().sum(-1), time_varying=True),
    )
    torch.testing.assert_close(density_of(made.to_pyro(), values()), log_joint(made, values()))


def test_certain_sites_are_observed() -> None:
    made = random_graph(initial=F.Delta([1.0, 2.0]), dynamics=F.LinearGaussianDynamics(np.eye(2), np.ones((2, 1))))
    nodes = poutine.trace(made.to_pyro()).get_trace().nodes
    assert [nodes[name]["is_observed"] for name in SITES] == [True, False, True, False, True]
    assert torch.equal(nodes["s1"]["value"], nodes["s0"]["value"] + nodes["a0"]["value"])


def test_singular_noise_has_no_program() -> None:
    singular = np.diag([0.0, 1.0])
    for changes, what in (
        ({"initial": F.Gaussian([0.0, 0.0], singular)}, "initial"),
        ({"dynamics": F.LinearGaussianDynamics(np.eye(2), np.ones((2, 1)), singular)}, "dynamics"),
    ):
        with pytest.raises(ValueError, match=f"to_pyro: {what} has a singular covariance"):
            random_graph(**changes).to_pyro()
    later = F.LinearGaussianDynamics.per_step(np.eye(2)[None], np.ones((1, 2, 1)), np.stack([np.eye(2), singular]))
    with pytest.raises(ValueError, match="to_pyro: s2 has a singular covariance"):
        poutine.trace(random_graph(dynamics=later).to_pyro()).get_trace()


def test_a_batch_of_graphs_has_no_program() -> None:
    with pytest.raises(ValueError, match="must be one number for one state and action"):
        random_graph(reward=F.QuadraticReward(np.stack([np.eye(2)] * 3), [[1.0]])).to_pyro()


@pytest.mark.slow
def test_nuts_runs_on_a_linear_gaussian_graph() -> None:
    """Moments of the joint normal, whose precision is minus the Hessian of the density."""
    made = random_graph()
    sizes = list(SITES.values())

    def density(point: torch.Tensor) -> torch.Tensor:
        return log_joint(made, dict(zip(SITES, point.split(sizes), strict=True)))

    origin = torch.zeros(sum(sizes), dtype=torch.float64)
    precision = -torch.func.hessian(density)(origin)
    covariance = torch.linalg.inv(precision)
    mean = covariance @ torch.func.grad(density)(origin)
    with torch.random.fork_rng():
        pyro.set_rng_seed(0)
        sampler = MCMC(NUTS(made.to_pyro()), num_samples=400, warmup_steps=200, disable_progbar=True)
        sampler.run()
    drawn = torch.cat([sampler.get_samples()[name] for name in SITES], -1)
    effective = pyro.ops.stats.effective_sample_size(drawn[None])
    error = (covariance.diagonal() / effective).sqrt()
    assert ((drawn.mean(0) - mean).abs() < 5 * error).all()
