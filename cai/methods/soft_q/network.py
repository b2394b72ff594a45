"""Soft Q-learning with a network of Q(s, .) over finitely many actions.

    y = r + gamma (1 - terminated) V(s')           V by the backup, of a slow copy of the network
    minimise  mean of w loss(Q(s, a) - y),         w the importance weights of a prioritised memory, else 1

With n steps r is sum_{k<n} gamma^k r_k - alpha sum_{1<=k<n} gamma^k log(b/mu)(a_k|s_k), b the behaviour: unbiased
where b is the present policy, and otherwise the value of doing as b did for n - 1 steps, entropy counted.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from torch import Tensor, nn

from cai.data.serialization import serializable
from cai.data.transitions import Transitions
from cai.errors import IncompatibleMethod
from cai.factors.networks import MLPBody
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.annealing import Annealed, at_share
from cai.methods.sampling.learner import UpdateCount
from cai.methods.sampling.losses import AbstractLoss, SquaredLoss
from cai.methods.sampling.targets import AbstractTarget, PolyakTarget, need_target
from cai.methods.soft_q.backups import AbstractBackup, DoubleBackup
from cai.methods.soft_q.finite import AbstractFiniteLearner
from cai.methods.soft_q.head import AbstractHead
from cai.ops.optimisation import flushed_denormals, fused_adam


@serializable
@dataclass(frozen=True)
class Network(AbstractHead):
    """A network that takes a state and gives Q of every action; joint actions where there are several choices.

    Attributes:
        body: Makes it: `MLPBody`, `Dueling`, or any callable `(num_inputs, num_outputs) -> nn.Module`.
        backup: What the next state is worth: `SoftBackup()`, `DoubleBackup()` or `TwinBackup()`.
        target: How the slow copy follows: `PolyakTarget(rate)` or `PeriodicTarget(interval)`.
        loss: Of errors: `SquaredLoss()`; or `HuberLoss(threshold)`, which is steadier, and biased where rewards are
            noisy.
        learning_rate: Adam's.
        max_gradient_norm: To which gradients are scaled down; None leaves them.
    """

    body: Any = MLPBody()
    backup: AbstractBackup = DoubleBackup()
    target: AbstractTarget = PolyakTarget(0.005)
    loss: AbstractLoss = SquaredLoss()
    learning_rate: float | Annealed = 5e-4
    max_gradient_norm: float | None = 10.0

    def __post_init__(self) -> None:
        for name, kind, such in (
            ("backup", AbstractBackup, "DoubleBackup()"),
            ("loss", AbstractLoss, "SquaredLoss()"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"Network: {name} must be such as {such}, got {getattr(self, name)!r}")
        need_target(self, self.target)
        rate = self.learning_rate
        for end in (rate.start, rate.end) if isinstance(rate, Annealed) else (rate,):
            if not 0.0 <= end < math.inf:
                raise ValueError(f"Network: learning_rate must be at least 0, got {rate!r}")
        if not callable(self.body):
            raise ValueError(f"Network: body must make a network, (inputs, outputs) -> nn.Module, got {self.body!r}")
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0.0:
            raise ValueError(f"Network: max_gradient_norm must be positive, got {self.max_gradient_norm!r}")

    def accepts(self, graph: TrajectoryGraph) -> None:
        """Raises `IncompatibleMethod` unless there are finitely many actions."""
        if not isinstance(graph.action_space, Discrete | MultiDiscrete | MultiBinary):
            raise IncompatibleMethod(
                f"Network: it gives Q of each of finitely many actions, and the action_space is {graph.action_space}"
            )

    def learner(self, graph: TrajectoryGraph, method: Any) -> NetworkLearner:
        """Makes the network, untrained."""
        return NetworkLearner(graph, self, method)


class NetworkLearner(AbstractFiniteLearner):
    """A network of Q, or two, and their slow copies.

    Args:
        graph: The graph.
        head: The options of the network.
        method: The options of the method.
    """

    def __init__(self, graph: TrajectoryGraph, head: Network, method: Any) -> None:
        super().__init__(graph, method.exploration_on(graph))
        self._head = head
        online = _networks(head, self.states.size, self.actions.num_actions)
        target = copy.deepcopy(online).requires_grad_(False)
        self._online, self._target, self._count = online, target, UpdateCount()
        self.modules.update({"online": online, "target": target, "count": self._count})
        self._slow, self._learned = [*target.parameters()], [*online.parameters()]
        self.optimisers["q"] = fused_adam(online.parameters(), at_share(head.learning_rate, 0.0))

    def values(self, states: Tensor) -> Tensor:
        """Gives Q(s, .) of the network, of two the least."""
        return _least(self._online(self._features(states)))

    def learn(self, batch: Transitions) -> Tensor:
        """Takes one step down the loss of a batch.

        Raises:
            NonFinite: The loss or its gradient is NaN or infinite; the network is as before.
        """
        with flushed_denormals():
            self._set_learning_rate()
            targets = self._target_values(batch)
            q = self._online(self._features(batch.states))
            errors = q.gather(-1, self._taken(batch).expand(len(q), -1)[..., None]).squeeze(-1) - targets
            loss = (batch.weights * self._head.loss(errors)).sum(0).mean()
            norm = self.descend(loss, "q", max_norm=self._head.max_gradient_norm)
            self._count.num_updates += 1
            self._head.target.follow(self._slow, self._learned, int(self._count.num_updates))
        sizes = errors.detach().abs().mean(0)
        self.metrics.add("bellman_residual", sizes.mean())
        self.metrics.add("gradient_norm", norm)
        self.metrics.add("entropy", self._mean_entropy(_least(q.detach()), batch.states))
        return sizes

    def _target_values(self, batch: Transitions) -> Tensor:
        with torch.no_grad():
            features = self._features(batch.next_states)
            target = self._target(features)
            log_prior = self.log_prior(batch.next_states, target)
            following = self._head.backup.value(target, lambda: self._online(features), log_prior, self.temperature)
            return self.targets(batch, following)

    def _features(self, states: Tensor) -> Tensor:
        return self.states.features(states).to(self.device)

    def _set_learning_rate(self) -> None:
        if isinstance(self._head.learning_rate, Annealed):
            for group in self.optimisers["q"].param_groups:
                group["lr"] = at_share(self._head.learning_rate, self.share)


class _SideBySide(nn.Module):
    """Networks of Q, each for itself: `[*batch, inputs]` to `[num, *batch, A]`."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        if len(self.members) == 1:
            return self.members[0](inputs)[None]
        return torch.stack([member(inputs) for member in self.members])


def _networks(head: Network, num_inputs: int, num_outputs: int) -> nn.Module:
    num, stacked = head.backup.num_critics, getattr(head.body, "stacked", None)
    if num > 1 and stacked is not None:
        return stacked(num, num_inputs, num_outputs)
    return _SideBySide([head.body(num_inputs, num_outputs) for _ in range(num)])


def _least(q: Tensor) -> Tensor:
    return q[0] if len(q) == 1 else q.amin(0)
