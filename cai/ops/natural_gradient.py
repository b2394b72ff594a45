"""Natural gradients: the steepest ascent where distance is measured by KL between policies, not by parameters.

    max_s g's  subject to  s'F s / 2 <= delta:      s = sqrt(2 delta / g'F^{-1}g) F^{-1} g

F is the Fisher matrix of the policy, the Hessian of KL(old || new) at new = old. It is never built: F v is the gradient
of (grad KL)'v, and F^{-1} g comes from conjugate gradients. For a tabular softmax policy F^{-1} times the gradient of
the soft objective is the soft advantage / (1 - gamma), and a step (1 - gamma) / alpha along it soft policy iteration.

Source: Kakade (2002); Schulman, Levine, Moritz, Jordan and Abbeel (2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

#: v -> F v, both `[n]`.
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LinearSolution:
    """What conjugate gradients found.

    Attributes:
        solution: x, `[n]`.
        residual: |b - F x| / |b|, as the recursion has it.
        num_steps: Products taken.
    """

    solution: Tensor
    residual: float
    num_steps: int


def conjugate_gradients(
    product: Product, b: Tensor, *, num_steps: int = 10, tolerance: float = 1e-10
) -> LinearSolution:
    """Solves F x = b for a symmetric positive semidefinite F that is given by its products.

    Where F is singular and b in its range, it finds the solution without a part in the null space.

    Args:
        product: v -> F v.
        b: `[n]`.
        num_steps: The most products to take.
        tolerance: Of |b - F x| / |b|, to stop at.

    Returns:
        The solution as far as it was found, with its residual; a direction along which F has no curvature left, or, by
        rounding, less than none, ends it.

    Source: Hestenes and Stiefel (1952).
    """
    b = b.detach()
    x, rest = torch.zeros_like(b), b
    direction, square = rest, float(rest @ rest)
    first, taken = square, 0
    while taken < num_steps and square > tolerance**2 * first:
        along = product(direction)
        taken += 1
        curvature = float(direction @ along)
        if not curvature > 0:
            break
        x = x + square / curvature * direction
        rest = rest - square / curvature * along
        previous, square = square, float(rest @ rest)
        direction = rest + square / previous * direction
    return LinearSolution(x, math.sqrt(square / first) if first > 0 else 0.0, taken)


def flat_gradient(loss: Tensor, parameters: Iterable[Tensor], *, create_graph: bool = False) -> Tensor:
    """Computes the gradient of a scalar by all parameters as one vector, zeros for those that it does not depend on.

    Args:
        loss: 0-dim.
        parameters: Tensors that require gradients, of any shape.
        create_graph: Whether the gradient is to be differentiated again.

    Returns:
        `[n]`, in the order of `parameters`.
    """
    gradients = torch.autograd.grad(loss, list(parameters), create_graph=create_graph, materialize_grads=True)
    return parameters_to_vector(gradients)


def assign_flat(parameters: Iterable[Tensor], vector: Tensor) -> None:
    """Writes a vector into parameters, in place; each keeps its own memory.

    Unlike `torch.nn.utils.vector_to_parameters`, which makes parameters views of the vector: what is written to them
    afterwards changes it.

    Args:
        parameters: Tensors of any shape.
        vector: `[n]`, in their order.

    Raises:
        ValueError: The vector is longer or shorter than the parameters.
    """
    parameters = list(parameters)
    sizes = [parameter.numel() for parameter in parameters]
    if vector.shape != (sum(sizes),):
        raise ValueError(
            f"the parameters hold {sum(sizes)} numbers, the vector must be [{sum(sizes)}], got {list(vector.shape)}"
        )
    with torch.no_grad():
        for parameter, part in zip(parameters, vector.split(sizes), strict=True):
            parameter.copy_(part.view_as(parameter))


def fisher_product(divergence: Tensor, parameters: Iterable[Tensor], *, damping: float = 0.0) -> Product:
    """Gives the product with the Fisher matrix, v -> (F + damping I) v, as a Hessian-vector product of a divergence.

    Args:
        divergence: Mean KL(old || new) over states, 0-dim, with its graph, at new = old: new depends on the parameters,
            old is detached. There its gradient is zero and its Hessian the Fisher matrix.
        parameters: What to differentiate by; any shapes.
        damping: Added to the diagonal, so that parameters without effect on the policy do no harm.

    Returns:
        The product of vectors `[n]`. It holds the graph of the divergence.
    """
    parameters = list(parameters)
    slope = flat_gradient(divergence, parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        gradients = torch.autograd.grad(slope @ vector, parameters, retain_graph=True, materialize_grads=True)
        return parameters_to_vector(gradients) + damping * vector

    return product


def trust_region_scale(direction: Tensor, product: Product, *, radius: float) -> Tensor:
    """Computes sqrt(2 radius / s'Fs): how far to go along a direction until KL is, to second order, the radius.

    Args:
        direction: s, `[n]`.
        product: v -> F v.
        radius: Of KL(old || new), nats.

    Returns:
        0-dim; zero where the direction has no length in this metric, since nothing bounds the step there.

    Source: Schulman, Levine, Moritz, Jordan and Abbeel (2015), appendix C.
    """
    curvature = direction @ product(direction)
    return torch.where(
        curvature > 0, (2.0 * radius / curvature.clamp(min=torch.finfo(curvature.dtype).tiny)).sqrt(), 0.0
    )
