"""Natural gradients: conjugate gradients against numpy, Fisher matrices written out, one step of policy iteration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cai
from cai.ops import assign_flat, conjugate_gradients, fisher_product, flat_gradient, trust_region_scale


def positive(num: int, seed: int) -> Tensor:
    root = torch.as_tensor(np.random.default_rng(seed).normal(size=(num, num)))
    return root @ root.T / num + 0.1 * torch.eye(num, dtype=torch.float64)


def vector(num: int, seed: int = 0) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=num))


# -- conjugate gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num", [1, 3, 12])
def test_solution_after_as_many_steps_as_dimensions(num: int, seed: int) -> None:
    matrix, b = positive(num, seed), vector(num, seed)
    found = conjugate_gradients(lambda v: matrix @ v, b, num_steps=3 * num, tolerance=1e-13)
    np.testing.assert_allclose(found.solution, np.linalg.solve(matrix.numpy(), b.numpy()), rtol=1e-9, atol=1e-11)
    assert found.residual <= 1e-13 and found.num_steps <= 3 * num


def test_fewer_steps_say_how_far_they_came() -> None:
    matrix, b = positive(30, 0), vector(30)
    found = conjugate_gradients(lambda v: matrix @ v, b, num_steps=4, tolerance=0.0)
    assert found.num_steps == 4
    assert found.residual == pytest.approx(float((b - matrix @ found.solution).norm() / b.norm()), rel=1e-9)
    krylov = torch.stack([torch.linalg.matrix_power(matrix, k) @ b for k in range(4)], 1)  # the best of this space
    best = krylov @ torch.linalg.solve(krylov.T @ matrix @ krylov, krylov.T @ b)
    torch.testing.assert_close(found.solution, best, rtol=1e-8, atol=1e-10)


def test_singular_matrix_with_a_right_side_in_its_range() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    b = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    assert conjugate_gradients(lambda v: matrix @ v, b).solution.tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_nothing_to_solve_and_no_curvature() -> None:
    zero = torch.zeros(3)
    found = conjugate_gradients(lambda v: v, zero)
    assert found.solution.tolist() == [0.0] * 3 and found.residual == 0.0 and found.num_steps == 0
    flat = conjugate_gradients(lambda v: 0 * v, torch.ones(3))
    assert flat.solution.tolist() == [0.0] * 3 and flat.residual == 1.0 and flat.num_steps == 1


# -- vectors of parameters --------------------------------------------------------------------------------------------


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()


def test_assigning_keeps_the_memory_of_parameters() -> None:
    net = network()
    before = [parameter.data_ptr() for parameter in net.parameters()]
    given = vector(44)
    copy = given.clone()
    assign_flat(net.parameters(), given)
    assert torch.equal(nn.utils.parameters_to_vector(net.parameters()), copy)
    with torch.no_grad():
        next(net.parameters()).fill_(7.0)
    assert torch.equal(given, copy)
    assert [parameter.data_ptr() for parameter in net.parameters()] == before
    for wrong in (43, 45):
        with pytest.raises(ValueError, match=rf"hold 44 numbers, the vector must be \[44\], got \[{wrong}\]"):
            assign_flat(net.parameters(), vector(wrong))


def test_flat_gradient_of_what_is_not_used_is_zero() -> None:
    used, unused = (torch.ones(2, 2, requires_grad=True) for _ in range(2))
    assert flat_gradient((3 * used).sum(), [unused, used]).tolist() == [0.0] * 4 + [3.0] * 4


# -- Fisher matrices --------------------------------------------------------------------------------------------------


def divergence(old: Tensor, new: Tensor) -> Tensor:
    """Mean KL(old || new) of categorical policies, from log-probabilities `[N, A]`."""
    return (old.exp() * (old - new)).sum(-1).mean()


def test_product_is_the_expected_outer_product_of_scores() -> None:
    net, states = network(), vector(18).reshape(6, 3)
    parameters = list(net.parameters())
    log_probs = net(states).log_softmax(-1)
    scores = torch.stack([flat_gradient(entry, parameters, create_graph=True) for entry in log_probs.flatten()])
    fisher = (scores.T * (log_probs.exp() / 6).flatten()) @ scores
    product = fisher_product(divergence(log_probs.detach(), log_probs), parameters, damping=0.3)
    for seed in range(3):
        v = vector(44, seed)
        torch.testing.assert_close(product(v), (fisher @ v + 0.3 * v).detach(), rtol=1e-9, atol=1e-12)


def test_step_of_the_trust_region_has_its_radius_to_second_order() -> None:
    net, states = network(), vector(18).reshape(6, 3)
    parameters = list(net.parameters())
    start = nn.utils.parameters_to_vector(parameters).detach()
    old = net(states).log_softmax(-1).detach()
    product = fisher_product(divergence(old, net(states).log_softmax(-1)), parameters)
    direction, radii, ratios = vector(44, 5), (1e-2, 1e-4, 1e-6), []
    scales = [trust_region_scale(direction, product, radius=radius) for radius in radii]
    for radius, scale in zip(radii, scales, strict=True):
        assign_flat(parameters, start + scale * direction)
        ratios.append(float(divergence(old, net(states).log_softmax(-1)).detach()) / radius)
    assert ratios[2] == pytest.approx(1.0, abs=1e-2)
    assert abs(ratios[2] - 1) < 0.2 * abs(ratios[1] - 1) < 0.2 * abs(ratios[0] - 1)  # the next order is sqrt(radius)


def test_direction_without_effect_is_not_followed() -> None:
    assert float(trust_region_scale(torch.ones(3), lambda v: 0 * v, radius=0.01)) == 0.0
    assert float(trust_region_scale(torch.zeros(3), lambda v: v, radius=0.01)) == 0.0
    assert float(trust_region_scale(torch.ones(2), lambda v: 4 * v, radius=0.01)) == pytest.approx(math.sqrt(0.02 / 8))


# -- one step is soft policy iteration --------------------------------------------------------------------------------

GAMMA, ALPHA, S, A = 0.9, 0.4, 4, 3


def soft_objective(log_policy: Tensor, P: Tensor, R: Tensor, start: Tensor, log_prior: Tensor) -> Tensor:
    """J = start' (I - gamma P_pi)^{-1} (r_pi - alpha KL), differentiable by the logits."""
    policy = log_policy.exp()
    rewards = (policy * (R - ALPHA * (log_policy - log_prior))).sum(-1)
    chain = torch.einsum("sa,san->sn", policy, P)
    return start @ torch.linalg.solve(torch.eye(S, dtype=torch.float64) - GAMMA * chain, rewards)


@pytest.mark.parametrize("seed", range(4))
def test_natural_gradient_step_of_a_tabular_softmax_policy_is_soft_policy_iteration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    P, R = (torch.as_tensor(x) for x in (rng.dirichlet(np.ones(S), size=(S, A)), rng.normal(size=(S, A))))
    start, prior = (torch.as_tensor(x) for x in (rng.dirichlet(np.ones(S)), rng.dirichlet(np.ones(A), size=S)))
    logits = torch.as_tensor(rng.normal(size=(S, A))).requires_grad_()
    log_policy = logits.log_softmax(-1)
    gradient = flat_gradient(soft_objective(log_policy, P, R, start, prior.log()), [logits], create_graph=True)
    policy = log_policy.detach().exp()
    chain = torch.einsum("sa,san->sn", policy, P)
    visits = (1 - GAMMA) * torch.linalg.solve(torch.eye(S, dtype=torch.float64) - GAMMA * chain.T, start)
    mean_kl = (visits * (policy * (policy.log() - log_policy)).sum(-1)).sum()
    step = conjugate_gradients(fisher_product(mean_kl, [logits]), gradient, num_steps=100, tolerance=1e-13)
    stepped = (logits.detach() + (1 - GAMMA) / ALPHA * step.solution.reshape(S, A)).log_softmax(-1)

    graph = cai.TrajectoryGraph(
        cai.factors.Categorical(start),
        cai.factors.TabularDynamics(P),
        cai.factors.TabularReward(R),
        discount=GAMMA,
        temperature=ALPHA,
        action_prior=cai.factors.TabularPolicy(prior),
    )
    evaluated = cai.infer(graph, cai.PolicyEvaluation(cai.factors.TabularPolicy(policy)))
    q = evaluated.q(torch.arange(S)[:, None], torch.arange(A))
    improved = (prior.log() + q / ALPHA).log_softmax(-1)
    torch.testing.assert_close(stepped, improved, rtol=0, atol=1e-8)
    assert (stepped - log_policy.detach()).abs().max() > 0.1
