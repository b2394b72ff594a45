"""What every differentiable model promises: batched functions, right derivatives, vectorised by torch.func."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import cai


def check_derivatives(graph: cai.TrajectoryGraph, states: Tensor, actions: Tensor) -> None:
    """First and second derivatives of all factors against finite differences, at `[N, n]` and `[N, m]`."""
    states, actions = states.clone().requires_grad_(), actions.clone().requires_grad_()
    for function in (graph.dynamics.mean, lambda state, action: graph.reward(state, action)):
        assert gradcheck(function, (states, actions))
        assert gradgradcheck(function, (states, actions))
    if graph.terminal_reward is not None:
        assert gradcheck(graph.terminal_reward, (states,))
        assert gradgradcheck(graph.terminal_reward, (states,))


def check_batches(graph: cai.TrajectoryGraph, states: Tensor, actions: Tensor) -> None:
    """A batch of any shape is a loop, also under `torch.func.vmap`; arguments broadcast; float32 stays float32."""
    functions: list[Callable[..., Tensor]] = [graph.dynamics.mean, graph.reward]
    for function in functions:
        batched = function(states, actions)
        loop = torch.stack([function(state, action) for state, action in zip(states, actions, strict=True)])
        torch.testing.assert_close(batched, loop, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(torch.func.vmap(function)(states, actions), loop, rtol=1e-14, atol=1e-14)
        folded = function(states.reshape(2, -1, states.shape[-1]), actions.reshape(2, -1, actions.shape[-1]))
        assert folded.reshape(batched.shape).equal(batched)
        grid = function(states[:, None], actions)
        torch.testing.assert_close(grid.diagonal().mT if grid.dim() > 2 else grid.diagonal(), batched)
        assert function(states.float(), actions.float()).dtype == torch.float32
    jacobians = torch.func.vmap(torch.func.jacfwd(graph.dynamics.mean, argnums=(0, 1)))(states, actions)
    hessians = torch.func.vmap(torch.func.hessian(lambda s, a: graph.reward(s, a)))(states, actions)
    assert all(part.isfinite().all() for part in (*jacobians, hessians))
