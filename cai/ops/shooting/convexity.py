"""Positive semi-definite matrices next to symmetric ones."""

from __future__ import annotations

import torch
from torch import Tensor


def semidefinite(matrices: Tensor) -> Tensor:
    """Gives the positive semi-definite matrix nearest to each symmetric one in the Frobenius norm.

    That is with eigenvalues below zero put to zero. Decompositions are taken of those that need it.

    Args:
        matrices: `[..., k, k]`, symmetric up to rounding.
    """
    size, matrices = matrices.shape[-1], 0.5 * (matrices + matrices.mT)
    flat = matrices.reshape(-1, size, size)
    scale = flat.abs().amax((-2, -1), keepdim=True)
    identity = torch.eye(size, dtype=flat.dtype, device=flat.device)
    rounding = 8 * size * torch.finfo(flat.dtype).eps * scale
    bad = torch.linalg.cholesky_ex(flat + (rounding + torch.finfo(flat.dtype).tiny) * identity).info != 0
    if not bad.any():
        return matrices
    values, vectors = torch.linalg.eigh(flat[bad])
    flat = flat.clone()
    flat[bad] = (vectors * values.clamp(min=0.0)[..., None, :]) @ vectors.mT
    return flat.reshape(matrices.shape)
