"""Normal distributions of the first state, and of actions: affine in the state, or of any state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.affine_gaussian import AffineGaussian
from cai.factors.covariance import Covariance
from cai.factors.gaussian_checks import aligned, batches_of, common_batch, read_covariance, read_part
from cai.factors.linear_parts import GaussianMoments, GaussianPriorParts


@serializable
class Gaussian:
    """N(mean, covariance): a distribution of the first state, or an action prior that is the same in every state.

    Args:
        mean: `[*batch, n]`.
        covariance: `[*batch, n, n]`, symmetric and positive semi-definite; zero variances are allowed. An action prior
            must be positive definite.
        dtype: float64 by default.

    Raises:
        ValueError: Shapes that do not fit, entries that are not finite, or a covariance that is not symmetric positive
            semi-definite.
    """

    def __init__(self, mean: Any, covariance: Any, *, dtype: torch.dtype | None = None) -> None:
        self._mean = part = read_part(mean, "Gaussian mean", ("n",), dtype=dtype, time_varying=False)
        like = f"mean {list(part.shape[1:])}"
        self._covariance = read_covariance(
            covariance, "Gaussian covariance", part.shape[-1], like, dtype=dtype, time_varying=False
        )
        parts = {"mean": part, "covariance": self._covariance.part}
        self._batch = common_batch("Gaussian", batches_of(parts, {"mean": 1, "covariance": 2}))

    @property
    def mean(self) -> Tensor:
        """The mean, `[*batch, n]`."""
        return self._mean.shown

    @property
    def covariance(self) -> Tensor:
        """The covariance, `[*batch, n, n]`."""
        return self._covariance.value[0]

    @property
    def size(self) -> int:
        """Number of coordinates n."""
        return self._mean.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """The batch of mean and covariance together."""
        return self._batch

    @property
    def num_steps(self) -> None:
        """None: as an action prior it is the same at every step."""
        return None

    def __call__(self, state: Any = None, t: int = 0) -> torch.distributions.Distribution:
        """Gives the distribution; of a state, `[..., any size]`, one for each of its batch."""
        made = self._covariance.around(self.mean, 0, "Gaussian")
        if state is None:
            return made
        batch = torch.as_tensor(state).shape[:-1]
        return made.expand(torch.broadcast_shapes(batch, made.batch_shape))

    def initial_moments(self, state_size: int) -> GaussianMoments:
        """Gives mean and covariance of the first state; see `GaussianInitial`."""
        if self.size != state_size:
            raise ValueError(f"initial: Gaussian has {self.size} coordinates, the dynamics {state_size}")
        return GaussianMoments(self.mean.expand(*self._batch, self.size), self.covariance)

    def prior_parts(self, state_size: int, action_size: int) -> GaussianPriorParts:
        """Gives gain, offset and covariance of an action prior; see `GaussianPrior`."""
        if self.size != action_size:
            raise ValueError(
                f"action_prior: Gaussian has {self.size} coordinates, the dynamics {action_size} of actions"
            )
        _need_density(self._covariance, "Gaussian")
        mean, covariance = self._mean.value, self._covariance.value
        gain = mean.new_zeros(1, *[1] * len(self._batch), action_size, state_size)
        return GaussianPriorParts(gain, aligned(mean, self._batch, 1), aligned(covariance, self._batch, 2))

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"mean": self.mean, "covariance": self.covariance}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> Gaussian:
        """Makes the factor of what a file gave."""
        return cls(**parts, dtype=parts["mean"].dtype)


@serializable
class LinearGaussianPolicy:
    """N(K x + k, S): an action prior, or a policy to follow.

    Args:
        gain: K, `[*batch, m, n]`.
        offset: k, `[*batch, m]`; zero by default.
        covariance: S, `[*batch, m, m]`, symmetric and positive semi-definite; None for a deterministic policy. An
            action prior needs a positive definite one.
        dtype: float64 by default.

    Raises:
        ValueError: Shapes that do not fit, entries that are not finite, or a covariance that is not symmetric positive
            semi-definite.
    """

    def __init__(
        self, gain: Any, offset: Any = None, covariance: Any = None, *, dtype: torch.dtype | None = None
    ) -> None:
        self._set(gain, offset, covariance, dtype=dtype, time_varying=False)

    @classmethod
    def per_step(
        cls, gain: Any, offset: Any = None, covariance: Any = None, *, dtype: torch.dtype | None = None
    ) -> LinearGaussianPolicy:
        """Makes a policy that changes with time.

        Args:
            gain: `[T, *batch, m, n]`; a time axis of 1, here and below, serves all steps.
            offset: `[T, *batch, m]`.
            covariance: `[T, *batch, m, m]`.
            dtype: float64 by default.
        """
        policy = cls.__new__(cls)
        policy._set(gain, offset, covariance, dtype=dtype, time_varying=True)
        return policy

    def _set(self, gain: Any, offset: Any, covariance: Any, *, dtype: torch.dtype | None, time_varying: bool) -> None:
        axes = {"gain": ("m", "n")}
        self._affine = AffineGaussian(
            "LinearGaussianPolicy", {"gain": gain}, axes, offset, covariance, dtype=dtype, time_varying=time_varying
        )

    @property
    def time_varying(self) -> bool:
        """Whether the parts have a time axis."""
        return self._affine.time_varying

    @property
    def gain(self) -> Tensor:
        """K, `[*batch, m, n]`, or `[T or 1, *batch, m, n]` where the policy changes with time."""
        return self._affine.matrix("gain")

    @property
    def offset(self) -> Tensor | None:
        """k, `[*batch, m]`, with a time axis before it where the policy changes with time; None for zero."""
        return self._affine.offset

    @property
    def covariance(self) -> Tensor | None:
        """S, `[*batch, m, m]`, with a time axis before it where the policy changes with time; None for zero."""
        return self._affine.covariance

    @property
    def state_size(self) -> int:
        """Number of state coordinates n."""
        return self._affine.matrices["gain"].shape[-1]

    @property
    def action_size(self) -> int:
        """Number of action coordinates m."""
        return self._affine.size

    @property
    def batch_shape(self) -> torch.Size:
        """The batch of all parts together."""
        return self._affine.batch_shape

    @property
    def num_steps(self) -> int | None:
        """The number of steps T that the policy is for, or None where it serves all."""
        return self._affine.num_steps

    def mean(self, state: Any, t: int | Tensor = 0) -> Tensor:
        """Computes K x + k: `[..., m]`.

        Args:
            state: `[..., n]`.
            t: Time.
        """
        return self._affine.mean({"gain": ("state", state)}, t)

    def __call__(self, state: Any, t: int | Tensor = 0) -> torch.distributions.Distribution:
        """Gives pi(u | x) for states `[..., n]` at time t."""
        return self._affine.around(self.mean(state, t), t)

    def prior_parts(self, state_size: int, action_size: int) -> GaussianPriorParts:
        """Gives gain, offset and covariance of an action prior; see `GaussianPrior`."""
        if (self.state_size, self.action_size) != (state_size, action_size):
            raise ValueError(
                f"action_prior: LinearGaussianPolicy is for {self.state_size} state and {self.action_size} action "
                f"coordinates, the dynamics has {state_size} and {action_size}"
            )
        _need_density(self._affine.noise, "LinearGaussianPolicy")
        covariance = self._affine.aligned_covariance()
        assert covariance is not None
        return GaussianPriorParts(self._affine.aligned_matrix("gain"), self._affine.aligned_offset(), covariance)

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {name: getattr(self, name) for name in ("gain", "offset", "covariance", "time_varying")}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> LinearGaussianPolicy:
        """Makes the factor of what a file gave."""
        policy = cls.__new__(cls)
        policy._set(**parts, dtype=parts["gain"].dtype)
        return policy


def _need_density(covariance: Covariance | None, name: str) -> None:
    if covariance is None or not covariance.is_definite:
        raise ValueError(
            f"action_prior: {name} has a {'zero' if covariance is None else 'singular'} covariance; a prior on actions "
            "needs a positive definite one"
        )
