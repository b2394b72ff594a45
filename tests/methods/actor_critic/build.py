"""Small actor-critics, batches for them, and their arithmetic by numpy."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

import cai
from cai.data import Transitions
from cai.factors.networks import MLPBody

#: Smooth, so that finite differences see no kink.
SMALL = MLPBody((8, 8), activation="tanh")
LOW, HIGH = np.array([-2.0, 0.5]), np.array([1.0, 4.5])


class Field(gymnasium.Env):
    """Spaces, and little more: two numbers seen, an action of any space; an episode lasts four steps."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, actions: gymnasium.Space) -> None:
        self.action_space = actions

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.left = 4
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.left -= 1
        state = self.np_random.normal(size=2).astype(np.float32)
        return state, float(state[0] + np.sum(action)), False, self.left == 0, {}


def graph_of(actions: gymnasium.Space, *, temperature: float = 0.3, **parts: Any) -> cai.TrajectoryGraph:
    return cai.from_gym(Field(actions), discount=0.9, temperature=temperature).replace(**parts)


def box(low: Any = LOW, high: Any = HIGH) -> Box:
    return Box(np.asarray(low, np.float32), np.asarray(high, np.float32))


def unbounded(size: int = 2) -> Box:
    return Box(-np.inf, np.inf, (size,), np.float32)


def learner_of(graph: cai.TrajectoryGraph, seed: int = 0, **options: Any) -> Any:
    """Makes a learner with small networks, untrained."""
    method = cai.SoftActorCritic(**{"body": SMALL, "batch_size": 6, **options})
    method.accepts(graph)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return method.learner(graph)


def batch_of(actions: Any, *, seed: int = 0, **parts: Any) -> Transitions:
    """Six transitions with these actions: the second terminated; with weights."""
    rng = np.random.default_rng(seed)
    num = len(actions)
    whole: dict[str, Any] = {
        "states": torch.tensor(rng.normal(size=(num, 2)), dtype=torch.float32),
        "actions": torch.as_tensor(np.asarray(actions)),
        "rewards": torch.tensor(rng.normal(size=num), dtype=torch.float32),
        "next_states": torch.tensor(rng.normal(size=(num, 2)), dtype=torch.float32),
        "terminated": torch.tensor([i == 1 for i in range(num)]),
        "discounts": torch.full((num,), 0.9),
        "log_ratios": torch.zeros(num),
        "weights": torch.tensor(rng.uniform(0.5, 1.0, num), dtype=torch.float32),
        "indices": torch.arange(num),
    }
    return Transitions(**whole | parts)


def box_batch(seed: int = 0, space: Box | None = None, **parts: Any) -> Transitions:
    low, high = (LOW, HIGH) if space is None or not np.isfinite(space.low).all() else (space.low, space.high)
    actions = np.random.default_rng(seed + 1).uniform(low, high, (6, len(low)))
    return batch_of(actions.astype(np.float32), seed=seed, **parts)


# The same by numpy, in double precision.


def parameters_of(module: nn.Module) -> list[np.ndarray]:
    """Copies the parameters."""
    return [parameter.detach().double().numpy().copy() for parameter in module.parameters()]


def network(parameters: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """An MLP of tanh, parameters weight [out, in] and bias by layer."""
    for i in range(0, len(parameters), 2):
        x = x @ parameters[i].T + parameters[i + 1]
        x = x if i == len(parameters) - 2 else np.tanh(x)
    return x


def stacked(parameters: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """A StackedMLP of tanh: all weights [num, in, out], then all biases [num, 1, out]; [num, batch, out]."""
    weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
    x = np.stack([x] * len(weights[0]))
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight + bias
        x = x if i == len(weights) - 1 else np.tanh(x)
    return x


def to_unit(actions: np.ndarray, low: np.ndarray = LOW, high: np.ndarray = HIGH) -> np.ndarray:
    return (actions - (low + high) / 2) / ((high - low) / 2)


def squashed_draw(outputs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions in [LOW, HIGH] and their log-density, by the change of variables as it is written in books."""
    mean, log_std = np.split(outputs, 2, -1)
    u = mean + np.exp(log_std) * noise
    half = (HIGH - LOW) / 2
    log_normal = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    log_prob = (log_normal - np.log(half * (1 - np.tanh(u) ** 2))).sum(-1)
    return (LOW + HIGH) / 2 + half * np.tanh(u), log_prob


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()
