"""Policies as vectors of parameters, many of them at once: batched products in the place of a loop over policies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.factors.heads import AbstractHead, DeterministicHead, default_head
from cai.factors.multi_categorical import MultiCategorical
from cai.factors.networks import MLPBody
from cai.methods.sampling.priors import AbstractActionPrior


class VectorPolicies:
    """What vectors of parameters say of states: stochastic at a positive temperature, else without chance.

    Over a Discrete space the outputs are log pi / mu up to a constant, so that an action that the prior forbids is
    never taken.

    Args:
        states: How states become features.
        actions: How actions become indices or coordinates.
        prior: mu.
        body: The network's form.
        head: The distribution's form; None is the usual one.
        greedy: Whether nothing is left to chance.

    Attributes:
        num_parameters: Length of a vector.

    Raises:
        ValueError: A head that has parameters of its own.
    """

    def __init__(
        self,
        states: StateEncoding,
        actions: ActionEncoding,
        prior: AbstractActionPrior,
        *,
        body: MLPBody,
        head: AbstractHead | None,
        greedy: bool,
    ) -> None:
        if head is None:
            head = DeterministicHead() if greedy and not actions.is_discrete else default_head(actions)
        self._states, self._prior, self._greedy = states, prior, greedy
        self._sizes = (states.size, head.num_outputs(actions))
        self._body, self._output = body, head.build(actions)
        if list(self._output.parameters()):
            raise ValueError(
                f"head: {type(head).__name__} has parameters of its own, which no network puts out; take one whose "
                "outputs are all of a network's, such as cai.factors.StateGaussianHead()"
            )
        self._stacks: dict[int, nn.Module] = {}
        self.num_parameters = sum(p.numel() for p in self._stack(1).parameters())

    def load(self, vectors: Tensor) -> None:
        """Sets the parameters of E policies at once, `[E, P]`."""
        start = 0
        for parameter in self._stack(len(vectors)).parameters():
            size = parameter[0].numel()
            parameter.copy_(vectors[:, start : start + size].reshape(parameter.shape))
            start += size

    def each(self, states: Any, num: int) -> Distribution:
        """Gives pi(a | s) of each of the `num` policies that were loaded last, on the library's own actions.

        Args:
            states: `[num, ...]`, the environment's, one for each.
            num: E.
        """
        tensor = torch.as_tensor(states)
        return self._distribution(tensor, self._stack(num).forward_each(self._states.features(tensor)))

    def one(self, vector: Tensor, states: Any) -> Distribution:
        """Gives pi(a | s) of a single policy `[P]` in any batch of states `[*batch, ...]`."""
        self.load(vector[None])
        tensor = torch.as_tensor(states)
        return self._distribution(tensor, self._stack(1)(self._states.features(tensor)).squeeze(0))

    def _distribution(self, states: Tensor, outputs: Tensor) -> Distribution:
        made = self._output(outputs)
        if isinstance(made, Categorical):
            made = Categorical(logits=made.logits + self._prior.log_probs(states), validate_args=False)
        return _without_chance(made) if self._greedy else made

    def _stack(self, num: int) -> Any:
        if num not in self._stacks:
            with torch.random.fork_rng(devices=[]):  # what it is made of is overwritten
                self._stacks[num] = self._body.stacked(num, *self._sizes).requires_grad_(False)
        return self._stacks[num]


def _without_chance(policy: Distribution) -> Distribution:
    """Puts all probability on the most probable of finitely many actions."""
    if isinstance(policy, Categorical | MultiCategorical):
        logits = torch.full_like(policy.logits, -torch.inf)
        logits.scatter_(-1, policy.logits.argmax(-1, keepdim=True), 0.0)
        if isinstance(policy, MultiCategorical):
            return MultiCategorical(logits)
        return Categorical(logits=logits, validate_args=False)
    return policy
