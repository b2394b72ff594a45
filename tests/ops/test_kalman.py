"""Filter and smoother against the dense joint normal distribution, conditioned in numpy."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import cai
from cai.ops.gaussian.kalman import LOOP, SCAN, Passes, kalman_filter
from cai.ops.gaussian.marginals import Moments
from cai.ops.gaussian.smoother import kalman_smoother, smoothing_samples
from cai.ops.gaussian.state_space import StateSpace, predict, take_in
from tests import kalman_oracles
from tests.kalman_oracles import Chain, Hidden

ways = pytest.mark.parametrize("passes", [LOOP, SCAN], ids=["loop", "scan"])


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.as_tensor(rng.normal(size=shape))


def model(
    horizon: int,
    *,
    sizes: tuple[int, int] = (3, 2),
    batch: tuple[int, ...] = (),
    varies: bool = True,
    noise_rank: int = 3,
    start_rank: int = 3,
    seen_noise: float = 1.0,
    seed: int = 0,
) -> StateSpace:
    rng, (n, k) = np.random.default_rng(seed), sizes
    steps, times = (horizon, horizon + 1) if varies else (1, 1)
    spread, start = normal(rng, steps, *batch, n, noise_rank), normal(rng, *batch, n, start_rank)
    root = normal(rng, times, *batch, k, k)
    return StateSpace(
        transition=0.6 * normal(rng, steps, *batch, n, n),
        offset=normal(rng, steps, *batch, n),
        noise=spread @ spread.mT,
        observation=normal(rng, times, *batch, k, n),
        observation_offset=normal(rng, times, *batch, k),
        observation_noise=seen_noise * (root @ root.mT + 0.3 * torch.eye(k)),
        initial=Moments(normal(rng, *batch, n), start @ start.mT),
        horizon=horizon,
    )


def in_numpy(space: StateSpace) -> Chain:
    """A model without batch."""
    names = ("transition", "offset", "noise", "observation", "observation_offset", "observation_noise")
    parts = (space.initial.means, space.initial.covariances, *(getattr(space, name) for name in names))
    return Chain(*(part.numpy() for part in parts), space.horizon)


def simulated(space: StateSpace, seed: int = 0, missing: float = 0.0) -> Tensor:
    return torch.as_tensor(in_numpy(space).simulated(seed, missing))


def conditioned(space: StateSpace, y: Tensor) -> Hidden:
    return kalman_oracles.conditioned(in_numpy(space), y.numpy())


def close(found: Tensor, expected: np.ndarray | float, tolerance: float = 1e-9) -> None:
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance * size)


CASES = {
    "plain": {},
    "constant": {"varies": False},
    "no process noise": {"noise_rank": 0},
    "singular process noise": {"noise_rank": 1},
    "known start": {"start_rank": 0},
    "singular start and noise": {"start_rank": 1, "noise_rank": 1},
    "precise observations": {"seen_noise": 1e-4},
    "one coordinate": {"sizes": (1, 1)},
    "more seen than there is": {"sizes": (2, 3)},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


@ways
@cases
@pytest.mark.parametrize("missing", [0.0, 0.4], ids=["complete", "missing"])
@pytest.mark.parametrize("horizon", [1, 4, 13])
def test_moments_and_likelihood_are_those_of_the_joint(
    horizon: int, missing: float, options: dict, passes: Passes
) -> None:
    space = model(horizon, **options)
    y = simulated(space, missing=missing)
    joint = conditioned(space, y)
    filtered = kalman_filter(space, y, passes)
    smoothed = kalman_smoother(filtered, passes)
    close(filtered.log_likelihood, joint.log_likelihood)
    close(smoothed.means, joint.means)
    close(smoothed.covariances, joint.blocks)
    for t in (0, horizon // 2, horizon):  # up to t, and before t
        blind = y.clone()
        blind[t + 1 :] = torch.nan
        past = conditioned(space, blind)
        close(filtered.moments.means[t], past.means[t])
        close(filtered.moments.covariances[t], past.block(t))
        blind[t] = torch.nan
        past = conditioned(space, blind)
        close(filtered.predicted.means[t], past.means[t])
        close(filtered.predicted.covariances[t], past.block(t))


@ways
def test_steps_of_the_filter_are_the_filter(passes: Passes) -> None:
    space = model(9)
    y = simulated(space, missing=0.2)
    filtered, belief = kalman_filter(space, y, passes), space.initial
    for t in range(10):
        belief = take_in(space, belief, y[t], t)
        torch.testing.assert_close(belief.means, filtered.moments.means[t], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(belief.covariances, filtered.moments.covariances[t], rtol=1e-10, atol=1e-10)
        if t < 9:
            belief = predict(space, belief, torch.zeros(3, dtype=torch.float64), t)


@ways
@pytest.mark.parametrize("common", [True, False], ids=["all lack the same", "each lacks its own"])
def test_sequences_side_by_side(common: bool, passes: Passes) -> None:
    space = model(12)
    y = torch.stack([simulated(space, seed) for seed in range(5)], 1)
    mask = torch.as_tensor(np.random.default_rng(0).uniform(size=y.shape) < 0.3)
    y[mask[:, :1].expand_as(y) if common else mask] = torch.nan
    names = ("transition", "offset", "noise", "observation", "observation_offset", "observation_noise")
    parts = {name: getattr(space, name)[:, None] for name in names}
    start = Moments(space.initial.means[None], space.initial.covariances[None])
    filtered = kalman_filter(replace(space, **parts, initial=start), y, passes)
    assert filtered.correction.gains.shape[1] == (1 if common else 5)  # covariances once, where they can be
    smoothed = kalman_smoother(filtered, passes)
    for i in range(5):
        joint = conditioned(space, y[:, i])
        close(filtered.log_likelihood[i], joint.log_likelihood)
        close(smoothed.means[:, i], joint.means)
        close(smoothed.covariances[5, i], joint.block(5))


def test_models_side_by_side() -> None:
    space, rng = model(12, batch=(2, 3)), np.random.default_rng(0)
    y = normal(rng, 13, 2, 3, 2)
    loop, scan = (kalman_filter(space, y, passes) for passes in (LOOP, SCAN))
    torch.testing.assert_close(scan.log_likelihood, loop.log_likelihood, rtol=1e-11, atol=0)
    one, other = kalman_smoother(loop, LOOP), kalman_smoother(scan, SCAN)
    torch.testing.assert_close(other.means, one.means, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other.covariances, one.covariances, rtol=1e-10, atol=1e-10)


@ways
@pytest.mark.parametrize("options", [{}, {"noise_rank": 1, "start_rank": 1}], ids=["full", "singular"])
def test_samples_have_the_moments_of_the_joint(options: dict, passes: Passes) -> None:
    space, num = model(4, sizes=(2, 1), **options), 40_000
    y = simulated(space, missing=0.2)
    joint = conditioned(space, y)
    filtered = kalman_filter(space, y, passes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = smoothing_samples(filtered, kalman_smoother(filtered, passes).means, num, passes)
    flat = drawn.movedim(1, 0).reshape(num, -1).numpy()
    deviation = np.sqrt(np.diag(joint.covariance).clip(0.0))
    assert (np.abs(flat.mean(0) - joint.means.ravel()) <= 5 * deviation / num**0.5 + 1e-9).all()
    errors = np.abs(np.cov(flat.T) - joint.covariance)
    assert (errors <= 5 * 2**0.5 * np.outer(deviation, deviation) / num**0.5 + 1e-9).all()


def test_long_sequences_in_both_types() -> None:
    space = model(20_000, sizes=(2, 1), varies=False)
    y = normal(np.random.default_rng(0), 20_001, 1)
    filtered = kalman_filter(space, y, SCAN)
    smoothed = kalman_smoother(filtered, SCAN)
    short = kalman_filter(replace(space, horizon=300), y[:301], LOOP)
    torch.testing.assert_close(filtered.moments.means[:301], short.moments.means, rtol=1e-10, atol=1e-10)
    single = StateSpace(
        *(part.float() for name, part in vars(space).items() if name not in ("initial", "horizon")),
        Moments(space.initial.means.float(), space.initial.covariances.float()),
        20_000,
    )
    rough = kalman_filter(single, y.float(), SCAN)
    torch.testing.assert_close(rough.log_likelihood, filtered.log_likelihood, rtol=1e-4, atol=0)
    torch.testing.assert_close(kalman_smoother(rough, SCAN).means.double(), smoothed.means, rtol=1e-3, atol=1e-3)


@ways
def test_gradients_of_likelihood_and_means(passes: Passes) -> None:
    space = model(5, sizes=(2, 1))
    y = simulated(space)
    y[2] = torch.nan
    names = ("transition", "offset", "noise", "observation", "observation_offset", "observation_noise")

    def answer(*parts: Tensor) -> tuple[Tensor, Tensor]:
        changes = dict(zip(names, parts, strict=False))
        for name in ("noise", "observation_noise"):
            changes[name] = 0.5 * (changes[name] + changes[name].mT)
        start = Moments(parts[-2], 0.5 * (parts[-1] + parts[-1].mT))
        filtered = kalman_filter(replace(space, **changes, initial=start), y, passes)
        return filtered.log_likelihood, kalman_smoother(filtered, passes).means

    parts = [getattr(space, name) for name in names] + [space.initial.means, space.initial.covariances]
    assert gradcheck(answer, [part.clone().requires_grad_() for part in parts], fast_mode=True)


def test_known_combinations_of_what_is_seen_are_refused() -> None:
    space = model(6, sizes=(2, 2), noise_rank=0, start_rank=0)
    noise = space.observation_noise.clone()
    noise[3] = 0.0
    space = replace(space, observation_noise=noise)
    y = torch.zeros(7, 2, dtype=torch.float64)
    with pytest.raises(cai.IncompatibleMethod, match="of the observation at time 3 is not positive definite"):
        kalman_filter(space, y, LOOP)
    with pytest.raises(cai.IncompatibleMethod, match="a scan over time needs observations whose noise .* of time 3"):
        kalman_filter(space, y, SCAN)


def test_observations_without_noise_are_filtered_by_the_loop() -> None:
    space = replace(model(6, sizes=(2, 1)), observation_noise=torch.zeros(1, 1, 1, dtype=torch.float64))
    y = simulated(space)
    filtered = kalman_filter(space, y, LOOP)
    close(filtered.log_likelihood, conditioned(space, y).log_likelihood)
    seen = (space.observation @ filtered.moments.means[..., None]).squeeze(-1) + space.observation_offset
    close(seen, y.numpy())
    with pytest.raises(cai.IncompatibleMethod, match="smoother needs observations .* give it a small variance"):
        kalman_smoother(filtered, LOOP)
    tiny = replace(space, observation_noise=torch.full((1, 1, 1), 1e-9, dtype=torch.float64))
    smoothed = kalman_smoother(kalman_filter(tiny, y, LOOP), LOOP)
    close(smoothed.means, conditioned(space, y).means, 1e-6)


def test_starts_that_are_anywhere() -> None:
    """Variances of 1e8 before a late observation, 1e-2 and less after: nothing is lost, nothing below zero."""
    for seed in range(10):
        space = model(6, sizes=(2, 1), noise_rank=1, seen_noise=1e-2, seed=seed)
        space = replace(space, initial=Moments(space.initial.means, 1e8 * torch.eye(2, dtype=torch.float64)))
        y = simulated(space, seed)
        y[:3] = torch.nan
        smoothed = kalman_smoother(kalman_filter(space, y, LOOP), LOOP)
        means, covariances = exactly_conditioned(in_numpy(space), y.numpy())
        sizes = np.abs(covariances).max((1, 2))
        assert (np.abs(smoothed.covariances.numpy() - covariances).max((1, 2)) < 1e-6 * sizes).all(), seed
        assert (np.abs(smoothed.means.numpy() - means) < 1e-4 * np.sqrt(sizes)[:, None]).all(), seed
        assert (torch.linalg.eigvalsh(smoothed.covariances)[:, 0].numpy() > -1e-8 * sizes).all(), seed


def exactly_conditioned(chain: Chain, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances of each state with 60 digits, by the dense joint of states and observations."""
    n, times = len(chain.mean), chain.horizon + 1
    with mpmath.workdps(60):
        matrix = lambda x: mpmath.matrix(np.atleast_2d(x).tolist())  # noqa: E731
        means, blocks = [matrix(chain.mean).T], {(0, 0): matrix(chain.spread)}
        for t in range(chain.horizon):
            a = matrix(chain.at("a", t))
            means.append(a * means[t] + matrix(chain.at("push", t)).T)
            for s in range(t + 1):
                blocks[t + 1, s] = a * blocks[t, s]
                blocks[s, t + 1] = blocks[t + 1, s].T
            blocks[t + 1, t + 1] = a * blocks[t, t] * a.T + matrix(chain.at("w", t))
        seen = [t for t in range(times) if not np.isnan(y[t, 0])]
        h = {t: matrix(chain.at("h", t)) for t in seen}
        total, cross, away = mpmath.matrix(len(seen)), mpmath.matrix(n * times, len(seen)), mpmath.matrix(len(seen), 1)
        for i, s in enumerate(seen):
            away[i] = float(y[s, 0]) - float(chain.at("d", s)[0]) - (h[s] * means[s])[0]
            for j, t in enumerate(seen):
                noise = float(chain.at("r", s)[0, 0]) if s == t else 0.0
                total[i, j] = (h[s] * blocks[s, t] * h[t].T)[0] + noise
            for t in range(times):
                cross[n * t : n * t + n, i] = blocks[t, s] * h[s].T
        gain = cross * mpmath.inverse(total)
        shift, less = gain * away, gain * cross.T
        found = [means[t] + shift[n * t : n * t + n, 0] for t in range(times)]
        spreads = [blocks[t, t] - less[n * t : n * t + n, n * t : n * t + n] for t in range(times)]
        return np.array([x.T.tolist()[0] for x in found], float), np.array([x.tolist() for x in spreads], float)


def test_what_is_not_finite_is_named() -> None:
    space = model(400, sizes=(1, 1), varies=False)
    space = replace(space, transition=torch.full((1, 1, 1), 1e5).double(), observation=torch.zeros(1, 1, 1).double())
    with pytest.raises(cai.NonFinite, match="not finite at time"):
        kalman_filter(space, torch.zeros(401, 1, dtype=torch.float64), LOOP)
