"""Hidden states of a record: the public answer against the joint normal distribution, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from cai.methods import AssociativeScan, Sequential
from tests.kalman_oracles import Chain, Hidden, conditioned

F = cai.factors
RNG = np.random.default_rng(0)
T, N_STATES, N_ACTIONS, N_SEEN = 8, 3, 2, 2
A = 0.6 * RNG.normal(size=(T, N_STATES, N_STATES))
B = RNG.normal(size=(T, N_STATES, N_ACTIONS))
PUSH = RNG.normal(size=(T, N_STATES))
ROOT = RNG.normal(size=(1, N_STATES, 1))
C = RNG.normal(size=(T + 1, N_SEEN, N_STATES))
SHIFT = RNG.normal(size=(T + 1, N_SEEN))
R = 0.3 * np.eye(N_SEEN)[None]
MEAN, SPREAD = RNG.normal(size=N_STATES), np.diag([1.0, 0.5, 0.0])
ACTIONS = RNG.normal(size=(T, N_ACTIONS))


def chain(actions: np.ndarray = ACTIONS) -> Chain:
    push = PUSH + np.einsum("tij,tj->ti", B, actions)
    return Chain(MEAN, SPREAD, A, push, ROOT @ ROOT.transpose(0, 2, 1), C, SHIFT, R, T)


def graph(**changes: Any) -> cai.TrajectoryGraph:
    options: dict[str, Any] = {
        "initial": F.Gaussian(MEAN, SPREAD),
        "dynamics": F.LinearGaussianDynamics.per_step(A, B, ROOT @ ROOT.transpose(0, 2, 1), PUSH),
        "reward": F.QuadraticReward(np.eye(N_STATES), np.eye(N_ACTIONS)),
        "horizon": T,
        "observation": F.LinearGaussianObservation.per_step(C, R, SHIFT),
    }
    return cai.TrajectoryGraph(**options | changes)


def constant_graph(**changes: Any) -> cai.TrajectoryGraph:
    return graph(
        **{
            "dynamics": F.LinearGaussianDynamics(A[0], B[0], np.eye(N_STATES), PUSH[0]),
            "observation": F.LinearGaussianObservation(C[0], R[0]),
            "horizon": None,
        }
        | changes
    )


def close(found: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def answered(missing: float = 0.3, **options: Any) -> tuple[cai.Posterior, Hidden]:
    y = chain().simulated(1, missing)
    return cai.infer(graph().condition(observations=y, actions=ACTIONS), cai.KalmanSmoother(**options)), conditioned(
        chain(), y
    )


@pytest.mark.parametrize("schedule", [None, Sequential(), AssociativeScan()], ids=lambda x: type(x).__name__)
def test_smoother_gives_the_joint(schedule: Any) -> None:
    posterior, joint = answered(schedule=schedule)
    close(posterior.log_evidence, joint.log_likelihood)
    assert posterior.is_bound is False
    assert posterior.stats.converged
    assert len(posterior.state_marginals) == T + 1
    close(posterior.state_marginals.mean, joint.means)
    close(posterior.state_marginals.covariance_matrix, joint.blocks)
    assert posterior.log_evidence.dim() == 0


def test_filter_knows_the_past_alone() -> None:
    y = chain().simulated(1)
    posterior = cai.infer(graph().condition(observations=y, actions=ACTIONS), cai.KalmanFilter())
    assert torch.equal(posterior.filtered_marginals.mean, posterior.state_marginals.mean)
    for t in (0, 3, T):
        blind = y.copy()
        blind[t + 1 :] = np.nan
        past = conditioned(chain(), blind)
        close(posterior.state_marginals[t].mean, past.means[t])
        close(posterior.state_marginals[t].covariance_matrix, past.block(t))
        blind[t] = np.nan
        close(posterior.predicted_marginals[t].mean, conditioned(chain(), blind).means[t])
    close(posterior.log_evidence, conditioned(chain(), y).log_likelihood)


def test_several_sequences_are_several_answers() -> None:
    actions = np.random.default_rng(2).normal(size=(3, T, N_ACTIONS))
    y = np.stack([chain(u).simulated(seed, 0.2) for seed, u in enumerate(actions)])
    posterior = cai.infer(graph().condition(observations=y, actions=actions), cai.KalmanSmoother())
    assert posterior.state_marginals.batch_shape == (T + 1, 3)
    for i in range(3):
        joint = conditioned(chain(actions[i]), y[i])
        close(posterior.log_evidence[i], joint.log_likelihood)
        close(posterior.state_marginals.mean[:, i], joint.means)
        close(posterior.state_marginals.covariance_matrix[:, i], joint.blocks)
        close(posterior.policy([[0.0] * N_STATES], 2).mean[i], actions[i, 2])
    shared = cai.infer(graph().condition(observations=y, actions=actions[0]), cai.KalmanSmoother())
    close(shared.log_evidence[2], conditioned(chain(actions[0]), y[2]).log_likelihood)
    drawn = posterior.sample(4, seed=0)
    assert drawn.states.shape == (12, T + 1, N_STATES)
    assert torch.equal(drawn.actions[4:8], torch.as_tensor(actions[1]).expand(4, T, N_ACTIONS))
    assert torch.equal(drawn.observations[4].nan_to_num(), torch.as_tensor(y[1]).nan_to_num())


def test_samples_are_of_the_joint() -> None:
    posterior, joint = answered()
    num = 20_000
    drawn = posterior.sample(num, seed=0)
    assert torch.equal(drawn[:5].states, posterior.sample(num, seed=0)[:5].states)
    flat = drawn.states.reshape(num, -1).numpy()
    deviation = np.sqrt(np.diag(joint.covariance).clip(0.0))
    assert (np.abs(flat.mean(0) - joint.means.ravel()) <= 5 * deviation / num**0.5 + 1e-9).all()
    errors = np.abs(np.cov(flat.T) - joint.covariance)
    assert (errors <= 5 * 2**0.5 * np.outer(deviation, deviation) / num**0.5 + 1e-9).all()
    assert drawn.rewards is None
    assert posterior.sample(3, seed=0, length=2).states.shape == (3, 3, N_STATES)
    for num, length in ((0, None), (1.5, None), (2, 0), (2, T + 1)):
        with pytest.raises(ValueError, match="must be a whole number"):
            posterior.sample(num, length=length)


def test_policy_is_what_was_done() -> None:
    posterior, _ = answered()
    states = torch.zeros(5, N_STATES)
    close(posterior.policy(states, 3).mean, np.broadcast_to(ACTIONS[3], (5, N_ACTIONS)))
    assert (posterior.policy(states, 3).sample() == torch.as_tensor(ACTIONS[3])).all()
    close(posterior.policy(torch.zeros(T, N_STATES), torch.arange(T)).mean, ACTIONS)
    for state, t in (([0.0], 0), (states, T), (states, -1)):
        with pytest.raises(ValueError, match="state|within"):
            posterior.policy(state, t)


def test_the_mode_is_the_mean() -> None:
    posterior, joint = answered()
    close(posterior.most_probable_trajectory.states[0], joint.means)


def test_horizon_is_that_of_the_record() -> None:
    record = constant_graph().condition(observations=np.zeros((6, N_SEEN)), actions=np.zeros((5, N_ACTIONS)))
    assert record.horizon == 5
    assert len(cai.infer(record, cai.KalmanSmoother()).state_marginals) == 6
    again = record.condition(observations=np.zeros((3, N_SEEN)), actions=np.zeros((2, N_ACTIONS)))
    assert again.horizon == 2


def test_parameters_can_be_fitted_through_the_likelihood() -> None:
    a = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    y = np.random.default_rng(0).normal(size=(6, 1))

    def likelihood(value: Tensor, schedule: Any) -> Tensor:
        graph = cai.TrajectoryGraph(
            F.Gaussian([0.0], [[1.0]]),
            F.LinearGaussianDynamics(value, [[1.0]], [[0.2]]),
            F.QuadraticReward([[1.0]], [[1.0]]),
            observation=F.LinearGaussianObservation([[1.0]], [[0.5]]),
        )
        record = graph.condition(observations=y, actions=np.ones((5, 1)))
        return cai.infer(record, cai.KalmanFilter(schedule=schedule)).log_evidence

    for schedule in (Sequential(), AssociativeScan()):
        (slope,) = torch.autograd.grad(likelihood(a, schedule), a)
        step = 1e-6
        ends = [likelihood(torch.tensor([[0.5 + sign * step]], dtype=torch.float64), schedule) for sign in (1, -1)]
        assert abs(float(slope) - float(ends[0] - ends[1]) / (2 * step)) < 1e-6


def test_saved_and_loaded(tmp_path: Path) -> None:
    posterior, _ = answered()
    posterior.save(tmp_path / "answer")
    again = cai.load(tmp_path / "answer")
    assert torch.equal(again.log_evidence, posterior.log_evidence)
    assert torch.equal(again.sample(3, seed=0).states, posterior.sample(3, seed=0).states)
    assert again.graph.evidence.recording.horizon == T
    assert again.method == posterior.method


def test_what_is_not_there_says_why() -> None:
    posterior, _ = answered()
    for read in (lambda p: p.q([0.0] * 3, [0.0] * 2), lambda p: p.v([0.0] * 3), lambda p: p.expected_return):
        with pytest.raises(cai.Unavailable, match="rewards are no part of that question"):
            read(posterior)
    record = posterior.graph
    filtered = cai.infer(record, cai.KalmanFilter())
    with pytest.raises(cai.Unavailable, match="ask KalmanSmoother"):
        filtered.sample(2)
    with pytest.raises(cai.Unavailable, match="ask KalmanSmoother"):
        filtered.most_probable_trajectory  # noqa: B018


def test_pairings() -> None:
    record = graph().condition(observations=np.zeros((T + 1, N_SEEN)), actions=ACTIONS)
    with pytest.raises(cai.IncompatibleMethod, match=r"graph.condition\(observations=y, actions=u\)"):
        cai.infer(graph(), cai.KalmanSmoother())
    with pytest.raises(cai.IncompatibleMethod, match="KalmanSmoother does"):
        cai.infer(record, cai.SoftValueIteration())
    with pytest.raises(cai.IncompatibleMethod, match="needs LinearGaussianObservation as the observation, got None"):
        cai.infer(graph(observation=None), cai.KalmanFilter())
    with pytest.raises(cai.IncompatibleMethod, match="needs Gaussian or Delta as the initial"):
        cai.infer(cai.load_model("two_state"), cai.KalmanFilter())
    with pytest.raises(cai.IncompatibleMethod, match="trajectory graphs, not a FactorGraph"):
        cai.infer(cai.load_model("two_state").replace(horizon=3).unroll(), cai.KalmanFilter())
    with pytest.raises(ValueError, match="expected schedule="):
        cai.infer(record, cai.KalmanSmoother(schedule="scan"))  # type: ignore[arg-type]


def test_a_program_is_not_made_of_a_record() -> None:
    with pytest.raises(ValueError, match="would not know of the record"):
        graph().condition(observations=Y, actions=U).to_pyro()


def test_scan_needs_noise_in_the_observations() -> None:
    exact = graph(observation=F.LinearGaussianObservation(C[0], np.zeros((N_SEEN, N_SEEN))))
    record = exact.condition(observations=np.zeros((T + 1, N_SEEN)), actions=ACTIONS)
    with pytest.raises(cai.IncompatibleMethod, match=r"schedule=Sequential\(\) is the loop"):
        cai.infer(record, cai.KalmanFilter(schedule=AssociativeScan()))
    with pytest.raises(
        cai.IncompatibleMethod, match="the smoother needs observations whose noise is positive definite"
    ):
        cai.infer(record, cai.KalmanSmoother())


Y, U = np.zeros((T + 1, N_SEEN)), np.zeros((T, N_ACTIONS))
BAD_RECORDS = {
    "no actions": ({"observations": Y}, "observations need actions="),
    "no observations": ({"actions": U}, "known along with observations="),
    "one too few": ({"observations": Y[1:], "actions": U}, "8 actions need 9 observations"),
    "a vector": ({"observations": Y[:, 0], "actions": U}, r"expected observations \[T \+ 1, k\]"),
    "sequences": ({"observations": Y[None].repeat(2, 0), "actions": U[None].repeat(3, 0)}, "2 sequences of"),
    "sizes": ({"observations": Y[:, :1], "actions": U}, "observations have 1 coordinates, the graph's 2"),
    "action sizes": ({"observations": Y, "actions": U[:, :1]}, "actions have 1 coordinates, the graph's 2"),
    "infinite": ({"observations": np.where(np.arange(T + 1)[:, None] == 3, np.inf, Y), "actions": U}, "time 3"),
    "unknown action": ({"observations": Y, "actions": U + np.nan}, "actions are not finite at time 0"),
    "states too": ({"states": {0: 1}, "observations": Y, "actions": U}, "cannot both be known"),
    "horizon": ({"observations": Y[:3], "actions": U[:2]}, "it is for 8 steps|times, the horizon is"),
}


@pytest.mark.parametrize(("record", "message"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_bad_records(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph().condition(**record)


def test_records_need_an_observation_factor() -> None:
    with pytest.raises(ValueError, match="needs a graph with observation="):
        graph(observation=None).condition(observations=Y, actions=U)
    with pytest.raises(ValueError, match="needs a graph with states that are vectors"):
        cai.load_model("two_state").condition(observations=Y, actions=U)


BAD_OBSERVATIONS = {
    "size": (lambda: F.LinearGaussianObservation([[1.0]], [[1.0]]), r"for states \[1\], the graph's are \[3\]"),
    "times": (
        lambda: F.LinearGaussianObservation.per_step(C[:4], R, SHIFT[:4]),
        "for 4 times, the horizon is 8, of 9 times",
    ),
    "kind": (lambda: 3, "expected a factor such as"),
    "batch": (
        lambda: F.LinearGaussianObservation(np.zeros((5, 1, 3)), np.ones((1, 1))),
        r"its batch \[5\] does not broadcast with \[2\]",
    ),
}


@pytest.mark.parametrize(("factor", "message"), BAD_OBSERVATIONS.values(), ids=BAD_OBSERVATIONS)
def test_bad_observation_factors(factor: Any, message: str) -> None:
    wide = F.LinearGaussianDynamics.per_step(A[:, None].repeat(2, 1), B[:, None].repeat(2, 1))
    with pytest.raises(ValueError, match=message):
        graph(observation=factor(), **({"dynamics": wide} if "batch" in message else {}))


def test_tables_take_no_observation_factor() -> None:
    with pytest.raises(ValueError, match="only graphs of vectors or of callables take one"):
        cai.load_model("two_state").replace(observation=F.LinearGaussianObservation([[1.0]], [[1.0]]))


class TestObservationFactor:
    def test_call(self) -> None:
        factor = F.LinearGaussianObservation.per_step(C, R, SHIFT)
        made = factor(torch.ones(4, N_STATES), t=2)
        close(made.mean, np.broadcast_to(C[2] @ np.ones(N_STATES) + SHIFT[2], (4, N_SEEN)))
        assert isinstance(made, torch.distributions.MultivariateNormal)
        assert (factor.num_times, factor.state_size, factor.observation_size) == (T + 1, N_STATES, N_SEEN)
        assert F.LinearGaussianObservation(C[0], R[0]).num_times is None

    def test_without_noise_it_is_a_point(self) -> None:
        factor = F.LinearGaussianObservation([[1.0, 0.0]], [[0.0]])
        assert factor(torch.tensor([2.0, 3.0])).sample().item() == 2.0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([1.0], [[1.0]]), "C: expected"),
            (([[1.0]], [[1.0, 0.0], [0.0, 1.0]]), "covariance is"),
            (([[1.0]], [[-1.0]]), "not positive semi-definite"),
            (([[1.0]], [[1.0]], [1.0, 2.0]), "offset has 2 coordinates"),
            (([[np.nan]], [[1.0]]), "finite"),
        ],
    )
    def test_bad_parts(self, arguments: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            F.LinearGaussianObservation(*arguments)
