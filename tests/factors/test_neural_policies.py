"""Policies that are networks, on every kind of space: units, shapes, densities, running, writing and reading."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import nn
from torch.distributions import Independent, Normal, Uniform

import cai
from cai.data import serialization
from cai.data.encodings import ActionEncoding
from cai.factors import (
    CategoricalHead,
    DeterministicHead,
    DiagonalNormal,
    GaussianHead,
    MLPBody,
    MultiCategoricalHead,
    NeuralPolicy,
    OrthogonalInitialisation,
    SquashedGaussianHead,
    SquashedNormal,
    Standardisation,
    StateGaussianHead,
    default_head,
    greedy_action,
)

INF = float("inf")
SMALL = MLPBody((8,), "tanh")
STATES = {
    "numbers": Discrete(5, start=2),
    "several": MultiDiscrete([2, 3]),
    "bits": MultiBinary(3),
    "box": Box(-1.0, 1.0, (3,)),
    "matrix": Box(-INF, INF, (2, 2), np.float64),
    "image": Box(0, 255, (2, 2), np.uint8),
}
ACTIONS = {
    "two": Discrete(2),
    "from two": Discrete(3, start=2),
    "several": MultiDiscrete([2, 3]),
    "table from": MultiDiscrete([[2, 3], [3, 4]], start=[[1, 0], [0, 2]]),
    "bits": MultiBinary(3),
    "box": Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
    "square box": Box(-2.0, 2.0, (2, 2)),
    "number": Box(-1.0, 1.0, ()),
    "plane": Box(-INF, INF, (2,)),
}


def sampled(space: gymnasium.Space, batch: tuple[int, ...]) -> np.ndarray:
    space.seed(0)
    rows = [np.asarray(space.sample()) for _ in range(math.prod(batch))]
    return np.stack(rows).reshape((*batch, *(space.shape or ())))


def contains(space: gymnasium.Space, action: Any) -> bool:
    array = np.asarray(action, space.dtype)
    return space.contains(array[()] if isinstance(space, Discrete) else array)


# -- as a factor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (4,), (3, 2)], ids=str)
@pytest.mark.parametrize("action_space", ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize("state_space", STATES.values(), ids=STATES)
def test_every_pair_of_spaces(
    state_space: gymnasium.Space, action_space: gymnasium.Space, batch: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    policy = NeuralPolicy(state_space, action_space, body=SMALL)
    states = sampled(state_space, batch)
    made = policy(states, t=3)
    actions = made.sample()
    shape = torch.Size([*batch, *(action_space.shape or ())])
    assert made.batch_shape == batch and actions.shape == shape
    assert all(contains(action_space, row) for row in actions.numpy().reshape((-1, *(action_space.shape or ()))))
    best = greedy_action(made)
    assert best.shape == shape and torch.isfinite(made.log_prob(best)).all()
    features, internal = policy.states.features(states), policy.actions.from_env(actions)
    log_prob = made.log_prob(actions)
    assert log_prob.shape == batch and torch.allclose(policy.log_prob(features, internal), log_prob, atol=1e-4)
    assert torch.allclose(policy.actions.from_env(best).float(), policy.greedy(features).float(), atol=1e-5)


def test_states_of_any_kind_mean_the_same() -> None:
    policy = NeuralPolicy(Box(-INF, INF, (2,)), Discrete(3), body=SMALL)
    state = [0.25, -1.5]
    logits = policy(torch.tensor(state)).logits
    for same in (np.array(state), np.array(state, np.float32), torch.tensor(state, dtype=torch.float64), state):
        assert torch.equal(policy(same).logits, logits)
    assert torch.allclose(policy.double()(np.array(state)).logits, logits.double(), atol=1e-6)


def test_actions_of_discrete_spaces_have_probabilities() -> None:
    policy = NeuralPolicy(Discrete(4), MultiDiscrete([2, 3]), body=SMALL)
    joint = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    mass = torch.stack([policy(torch.arange(4)).log_prob(a) for a in joint]).exp().sum(0)
    assert torch.allclose(mass, torch.ones(4))


@pytest.mark.parametrize(
    "policy",
    [
        cai.UniformPolicy(MultiDiscrete([2, 3]), Discrete(2)),
        cai.UniformPolicy(Box(-2.0, 4.0, (2,)), Discrete(2)),
        cai.UniformPolicy(Discrete(3, start=4), Discrete(2)),
    ],
    ids=["several", "box", "from four"],
)
def test_greedy_action_of_other_policies(policy: cai.UniformPolicy) -> None:
    action = greedy_action(policy(np.arange(2)))
    assert len(action) == 2 and all(contains(policy.action_space, a) for a in action.numpy())  # type: ignore[arg-type]
    assert isinstance(policy(0), Independent) or action[0] == 4
    if isinstance(getattr(policy(0), "base_dist", None), Uniform):
        assert torch.equal(action, torch.ones(2, 2))


# -- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_runs_in_environments(name: str) -> None:
    graph = cai.from_gym(name, discount=0.99)
    policy = NeuralPolicy(graph.state_space, graph.action_space, body=SMALL)
    run = cai.rollout(graph, policy, 2, seed=0, length=20)
    again = cai.rollout(graph, policy, 2, seed=0, length=20)
    assert torch.equal(run.actions, again.actions)
    assert all(contains(graph.action_space, a) for a in run.actions[0, : run.lengths[0]].numpy())


def test_runs_in_tables() -> None:
    maze = cai.load_model("gridworld")
    policy = NeuralPolicy(maze.state_space, maze.action_space, body=SMALL)
    run = cai.rollout(maze, policy, 50, seed=0, length=10)
    assert run.actions.shape[0] == 50 and run.actions.max() < maze.action_space.n


# -- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, head",
    [
        ("two", CategoricalHead()),
        ("several", MultiCategoricalHead()),
        ("bits", MultiCategoricalHead()),
        ("box", SquashedGaussianHead()),
        ("plane", StateGaussianHead()),
    ],
    ids=str,
)
def test_default_heads(name: str, head: Any) -> None:
    assert default_head(ActionEncoding(ACTIONS[name])) == head


@pytest.mark.parametrize(
    "head, name, wanted",
    [
        (CategoricalHead(), "several", "a Discrete space"),
        (CategoricalHead(), "box", "a Discrete space"),
        (MultiCategoricalHead(), "two", "a MultiDiscrete or MultiBinary space"),
        (GaussianHead(), "two", "a Box"),
        (StateGaussianHead(), "two", "a Box"),
        (SquashedGaussianHead(), "plane", "a Box bounded on all sides"),
        (SquashedGaussianHead(), "two", "a Box bounded on all sides"),
        (DeterministicHead(), "several", "a Box"),
    ],
    ids=str,
)
def test_heads_are_for_their_spaces(head: Any, name: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"{type(head).__name__} is for {wanted}, the actions are in"):
        NeuralPolicy(STATES["box"], ACTIONS[name], head=head)
    with pytest.raises(ValueError, match=wanted):
        head.build(ActionEncoding(ACTIONS[name]))


@pytest.mark.parametrize("head", [StateGaussianHead, SquashedGaussianHead])
@pytest.mark.parametrize("limits", [(1.0, 1.0), (-INF, 2.0), (0.0, float("nan"))], ids=str)
def test_limits_of_heads(head: Any, limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two finite numbers, the lower first"):
        head(log_std_limits=limits)


@pytest.mark.parametrize("name", ["box", "plane"])
def test_gaussian_heads_have_the_units_of_the_box(name: str) -> None:
    actions = ActionEncoding(ACTIONS[name])
    center, half = (torch.tensor([0.0, 0.5]), torch.tensor([2.0, 0.5])) if name == "box" else (0.0, torch.ones(2))
    outputs = torch.randn(5, 2)
    fixed = GaussianHead(initial_log_std=-0.5).build(actions)
    expected = Independent(Normal(center + half * outputs, half * math.exp(-0.5)), 1)
    value = torch.randn(5, 2)
    assert torch.allclose(fixed(outputs).log_prob(value), expected.log_prob(value), atol=1e-4)
    assert [p.shape for p in fixed.parameters()] == [(2,)] and fixed(outputs).log_prob(value).requires_grad
    both = torch.cat([outputs, torch.full((5, 2), 9.0)], -1)
    clamped = StateGaussianHead(log_std_limits=(-3.0, 1.0)).build(actions)(both)
    assert torch.allclose(clamped.stddev, (half * math.e).expand(5, 2)) and isinstance(clamped, DiagonalNormal)


def test_squashed_head_clamps_and_stays_in_the_box() -> None:
    actions = ActionEncoding(ACTIONS["box"])
    outputs = torch.tensor([[0.0, 3.0, -100.0, 100.0]])
    made = SquashedGaussianHead().build(actions)(outputs)
    assert isinstance(made, SquashedNormal) and torch.equal(made.log_std, torch.tensor([[-20.0, 2.0]]))
    assert torch.allclose(made.median, torch.tensor([[0.0, 0.5 + 0.5 * math.tanh(3.0)]]))


@pytest.mark.parametrize("name", ["box", "plane"])
def test_deterministic_head(name: str) -> None:
    outputs = torch.randn(5, 2, requires_grad=True)
    made = DeterministicHead().build(ActionEncoding(ACTIONS[name]))(outputs)
    action, log_prob = made.rsample_with_log_prob()
    squashed = torch.tensor([0.0, 0.5]) + torch.tensor([2.0, 0.5]) * outputs.tanh()
    assert torch.allclose(action, squashed if name == "box" else outputs) and not log_prob.any()
    assert torch.autograd.grad(action.sum(), outputs)[0].any()


def test_boxes_follow_their_policy_to_another_type() -> None:
    policy = NeuralPolicy(STATES["box"], ACTIONS["box"], body=SMALL).double()
    made = policy(sampled(STATES["box"], (4,)))
    action, log_prob = made.rsample_with_log_prob()  # type: ignore[attr-defined]
    assert action.dtype == log_prob.dtype == torch.float64
    assert torch.allclose(made.log_prob(action), log_prob, rtol=1e-8)


# -- scaling ----------------------------------------------------------------------------------------------------------


def test_features_are_standardised() -> None:
    torch.manual_seed(0)
    plain = NeuralPolicy(STATES["box"], Discrete(3), body=SMALL)
    scaled = NeuralPolicy(STATES["box"], Discrete(3), body=SMALL, standardisation=Standardisation(limit=2.0))
    scaled.network.load_state_dict(plain.network.state_dict())
    features = torch.tensor([[3.0, 100.0, -1.0]])
    assert torch.equal(
        scaled.on_features(features.clamp(-2.0, 2.0)).logits, plain.on_features(features.clamp(-2, 2)).logits
    )
    scaled.observe_moments(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([4.0, 1.0, 0.0]))
    expected = plain.on_features(torch.tensor([[1.0, 2.0, 0.0]]))
    assert torch.allclose(scaled.on_features(features).logits, expected.logits)
    assert torch.isfinite(scaled.on_features(features + 1e-3).logits).all()  # a feature that never varied
    plain.observe_moments(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="must be positive, got 0 and"):
        Standardisation(limit=0)


# -- writing and reading ----------------------------------------------------------------------------------------------


def no_holes(name: str) -> Any:
    raise serialization.UnfilledHole(f"hole {name}")


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_written_and_read(tmp_path: Path, double: bool) -> None:
    body = MLPBody((8, 4), "tanh", OrthogonalInitialisation())
    policy = NeuralPolicy(
        STATES["box"], ACTIONS["box"], head=GaussianHead(-1.0), body=body, standardisation=Standardisation()
    )
    policy.observe_moments(torch.ones(3), 4.0 * torch.ones(3))
    policy = policy.double() if double else policy
    serialization.save(tmp_path / "policy", "policy", policy)
    before = torch.get_rng_state()
    again = serialization.load(tmp_path / "policy", "policy", no_holes)
    assert torch.equal(torch.get_rng_state(), before)
    states = sampled(STATES["box"], (6,))
    assert torch.equal(again(states).mean, policy(states).mean) and again.body == body
    assert torch.equal(again(states).stddev, policy(states).stddev)
    assert all(p.requires_grad for p in again.parameters())


def test_a_body_of_the_user_s_own_is_a_hole(tmp_path: Path) -> None:
    def body(num_inputs: int, num_outputs: int) -> nn.Module:
        return nn.Linear(num_inputs, num_outputs, bias=False)

    policy = NeuralPolicy(STATES["box"], Discrete(3), body=body)
    serialization.save(tmp_path / "policy", "policy", policy)
    with pytest.raises(serialization.UnfilledHole, match=r"hole body"):
        serialization.load(tmp_path / "policy", "policy", no_holes)
    again = serialization.load(tmp_path / "policy", "policy", {"body": body}.__getitem__)
    states = sampled(STATES["box"], (6,))
    assert torch.equal(again(states).logits, policy(states).logits)
    with pytest.raises(cai.CorruptFile, match="damaged"):  # another network than was written
        serialization.load(tmp_path / "policy", "policy", {"body": SMALL}.__getitem__)


def test_as_an_action_prior(tmp_path: Path) -> None:
    maze = cai.load_model("gridworld", horizon=4)
    prior = NeuralPolicy(maze.state_space, maze.action_space, body=SMALL)
    serialization.save(tmp_path / "graph", "graph", maze.replace(action_prior=prior))
    again = serialization.load(tmp_path / "graph", "graph", no_holes).action_prior
    assert torch.equal(again(torch.arange(4)).logits, prior(torch.arange(4)).logits)
