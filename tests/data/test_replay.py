"""Replay buffers on toy copies whose states say which copy, which episode and which step they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cai.data import PrioritisedReplayBuffer, ReplayBuffer, Transitions
from cai.data.sum_tree import SumTree
from cai.errors import NonFinite

GAMMA = 0.9
SPECS = {"states": ((3,), np.float64), "actions": ((), np.int64), "discount": GAMMA, "dtype": torch.float64}


@dataclass(frozen=True, eq=False)
class Step:
    states: NDArray
    actions: NDArray
    rewards: NDArray
    next_states: NDArray
    terminated: NDArray
    truncated: NDArray
    valid: NDArray


@dataclass
class Taken:
    """What happened in one step of one copy."""

    reward: float
    log_ratio: float
    action: int
    terminated: bool


@dataclass
class Toy:
    """Copies that end at random: the state `[copy, episode, t]` counts, and `history` keeps what happened.

    With `shows_resets` a copy spends the step after an end on its reset, which is no transition.
    """

    num_envs: int
    seed: int
    rate: float = 0.2
    shows_resets: bool = False
    history: dict[tuple[int, int, int], Taken] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.states = np.zeros((self.num_envs, 3))
        self.states[:, 0] = np.arange(self.num_envs)
        self.resets = np.zeros(self.num_envs, bool)

    def step(self) -> tuple[Step, NDArray]:
        E = self.num_envs
        states, valid, actions = self.states.copy(), ~self.resets, self.rng.integers(5, size=E)
        rewards, log_ratios = self.rng.normal(size=(2, E))
        terminated = valid & (self.rng.random(E) < self.rate / 2)
        truncated = valid & ~terminated & (self.rng.random(E) < self.rate / 2)
        next_states = states + np.array([0, 0, 1])
        for e in np.flatnonzero(valid):
            taken = Taken(float(rewards[e]), float(log_ratios[e]), int(actions[e]), bool(terminated[e]))
            self.history[tuple(states[e].astype(int))] = taken
        ended = terminated | truncated
        fresh = states * [1, 1, 0] + np.array([0, 1, 0])
        self.states = np.where(ended[:, None], fresh, np.where(valid[:, None], next_states, states))
        self.resets = ended if self.shows_resets else np.zeros(E, bool)
        return Step(states, actions, rewards, next_states, terminated, truncated, valid), log_ratios

    def check(self, batch: Transitions, n: int) -> None:
        """Every transition is the n steps from its state on, or as many as its episode has had."""
        for i in range(len(batch)):
            copy, episode, t = (int(x) for x in batch.states[i])
            steps = [self.history[key] for k in range(n) if (key := (copy, episode, t + k)) in self.history]
            assert batch.next_states[i].tolist() == [copy, episode, t + len(steps)]
            assert batch.actions[i] == steps[0].action
            assert bool(batch.terminated[i]) == steps[-1].terminated
            expected = [
                sum(GAMMA**k * step.reward for k, step in enumerate(steps)),
                sum(GAMMA**k * step.log_ratio for k, step in enumerate(steps) if k),
                GAMMA ** len(steps),
            ]
            found = [float(part[i]) for part in (batch.rewards, batch.log_ratios, batch.discounts)]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def filled(buffer: Any, toy: Toy, num_steps: int) -> Any:
    for _ in range(num_steps):
        buffer.add(*toy.step())
    return buffer


KINDS = [ReplayBuffer, PrioritisedReplayBuffer]
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# -- what a transition is ---------------------------------------------------------------------------------------------


@kinds
@given(
    num_envs=st.integers(1, 4),
    n_step=st.integers(1, 4),
    extra=st.integers(0, 30),
    num_steps=st.integers(1, 40),
    rate=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    shows_resets=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_transitions_never_join_two_episodes(
    kind: type, num_envs: int, n_step: int, extra: int, num_steps: int, rate: float, shows_resets: bool, seed: int
) -> None:
    """Any ends, any fill, the ring gone round or not: what is drawn is what happened, and all of the latest of it."""
    toy = Toy(num_envs, seed, rate, shows_resets)
    buffer = kind(num_envs * n_step + extra, num_envs=num_envs, n_step=n_step, **SPECS)
    filled(buffer, toy, num_steps)
    assert len(buffer) == min(len(toy.history), buffer.capacity)
    batch = buffer.sample(40 * buffer.capacity)
    toy.check(batch, n_step)
    kept = {tuple(state) for state in batch.states.long().tolist()}
    assert kept == set(list(toy.history)[-buffer.capacity :])


@kinds
def test_copies_set_elsewhere_do_not_follow_themselves(kind: type) -> None:
    toy = Toy(2, 0, rate=0.0)
    buffer = filled(kind(20, num_envs=2, n_step=3, **SPECS), toy, 4)
    buffer.cut()
    toy.states += np.array([0, 1, 0])
    filled(buffer, toy, 4)
    toy.check(buffer.sample(400), 3)


def test_what_follows_a_row_that_is_no_transition_is_not_joined_to_what_was_before() -> None:
    toy = Toy(2, 0, rate=0.0)
    buffer = filled(ReplayBuffer(20, num_envs=2, n_step=3, **SPECS), toy, 3)
    step, log_ratios = toy.step()
    buffer.add(replace(step, valid=np.array([True, False])), log_ratios)
    del toy.history[(1, 0, 3)]
    toy.states[1] = [1, 1, 0]
    filled(buffer, toy, 3)
    toy.check(buffer.sample(400), 3)


def test_without_later_steps_log_ratios_are_not_needed() -> None:
    toy = Toy(2, 0)
    buffer = ReplayBuffer(20, num_envs=2, **SPECS)
    buffer.add(toy.step()[0])
    assert not buffer.sample(5).log_ratios.any()
    several = ReplayBuffer(20, num_envs=2, n_step=2, **SPECS)
    with pytest.raises(ValueError, match="n_step=2 needs the log_ratios of the actions"):
        several.add(toy.step()[0])
    assert len(several) == 0


@kinds
def test_a_step_of_resets_adds_nothing(kind: type) -> None:
    toy = Toy(3, 0)
    buffer = kind(20, num_envs=3, n_step=2, **SPECS)
    step, log_ratios = toy.step()
    buffer.add(replace(step, valid=np.zeros(3, bool)), log_ratios)
    assert len(buffer) == 0
    with pytest.raises(ValueError, match=f"{kind.__name__}: it is empty, add transitions before sampling"):
        buffer.sample(1)


@pytest.mark.parametrize(
    "states, actions",
    [
        (((), np.int64), ((), np.int64)),
        (((4, 5, 1), np.uint8), ((2,), np.float32)),
        (((7,), np.float32), ((3,), np.int64)),
    ],
    ids=["discrete", "image", "multi-discrete"],
)
def test_shapes_and_dtypes(states: Any, actions: Any) -> None:
    rng = np.random.default_rng(0)
    rows = {
        name: (10 * rng.random((2, *shape))).astype(dtype) for name, (shape, dtype) in (("s", states), ("a", actions))
    }
    no = np.zeros(2, bool)
    buffer = ReplayBuffer(4, num_envs=2, states=states, actions=actions, discount=GAMMA)
    buffer.add(Step(rows["s"], rows["a"], np.array([1.0, 2.0]), rows["s"], no, no, ~no))
    batch = buffer.sample(50)
    for found, given_rows, (shape, dtype) in ((batch.states, rows["s"], states), (batch.actions, rows["a"], actions)):
        assert found.shape == (50, *shape) and found.numpy().dtype == dtype
        assert torch.equal(found, torch.as_tensor(given_rows)[batch.indices])
    assert {batch.rewards.dtype, batch.discounts.dtype, batch.log_ratios.dtype, batch.weights.dtype} == {torch.float32}
    assert torch.equal(batch.rewards, batch.indices + 1.0)


@kinds
def test_a_batch_is_a_copy(kind: type) -> None:
    buffer = filled(kind(20, num_envs=2, **SPECS), Toy(2, 0), 5)
    before = buffer.memory()
    batch = buffer.sample(50)
    for name in ("states", "actions", "rewards", "next_states", "terminated"):
        getattr(batch, name).zero_()
    assert all(torch.equal(value, before[name]) for name, value in buffer.memory().items())
    assert len(batch.to("cpu")) == 50


# -- how often each is drawn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [10, 100], ids=["part", "full"])
def test_uniform_draws(num_steps: int) -> None:
    buffer = filled(ReplayBuffer(60, num_envs=3, **SPECS), Toy(3, 0), num_steps)
    counts = np.bincount(buffer.sample(60_000).indices, minlength=len(buffer))
    assert len(counts) == len(buffer) == min(3 * num_steps, 60)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_draws_by_priority_and_their_weights(exponent: float) -> None:
    buffer = PrioritisedReplayBuffer(50, num_envs=2, exponent=exponent, correction=0.7, **SPECS)
    filled(buffer, Toy(2, 0), 20)
    priorities = np.random.default_rng(0).normal(size=40)
    buffer.update(torch.arange(40), torch.as_tensor(priorities))
    chances = (np.abs(priorities) + 1e-6) ** exponent
    chances /= chances.sum()
    batches = [buffer.sample(100) for _ in range(500)]
    counts = sum(np.bincount(batch.indices, minlength=40) for batch in batches)
    # Draws from equal parts spread less than independent ones; each row's share is still its chance.
    errors = np.sqrt(50_000 * chances * (1 - chances))
    assert (np.abs(counts - 50_000 * chances) < 5 * errors + 1e-9).all()
    for batch in batches[:20]:
        weights = (40 * chances[batch.indices]) ** -0.7
        np.testing.assert_allclose(batch.weights, weights / weights.max(), rtol=1e-9)


def test_correction_makes_the_weighted_mean_that_of_the_buffer() -> None:
    buffer = PrioritisedReplayBuffer(64, num_envs=2, exponent=1.0, correction=1.0, **SPECS)
    filled(buffer, Toy(2, 0), 32)
    priorities = torch.rand(64, dtype=torch.float64) + 0.1
    buffer.update(torch.arange(64), priorities)
    chances, rewards = priorities / priorities.sum(), buffer.memory()["rewards"]
    means = []
    for _ in range(2000):
        batch = buffer.sample(64)
        weights = batch.weights * (1 / (64 * chances[batch.indices])).max()
        means.append(float((weights * batch.rewards).mean()))
    assert np.mean(means) == pytest.approx(float(rewards.mean()), abs=4 * np.std(means) / 2000**0.5)
    assert abs(np.mean(means) - float(chances @ rewards)) > 10 * np.std(means) / 2000**0.5


def test_what_is_new_has_the_greatest_priority() -> None:
    toy = Toy(1, 0)
    buffer = filled(PrioritisedReplayBuffer(8, exponent=1.0, **SPECS), toy, 8)
    buffer.update(torch.arange(8), [1e-3] * 7 + [5.0])
    filled(buffer, toy, 1)  # takes the place of row 0
    counts = np.bincount(buffer.sample(10_000).indices, minlength=8)
    assert counts[0] == pytest.approx(5000, abs=10) and counts[7] == pytest.approx(5000, abs=10)


def test_priority_that_is_no_number() -> None:
    buffer = filled(PrioritisedReplayBuffer(8, **SPECS), Toy(1, 0), 8)
    before = buffer.memory()["weights"]
    with pytest.raises(NonFinite, match="the priority of row 5 is nan"):
        buffer.update(torch.tensor([4, 5]), torch.tensor([1.0, torch.nan]))
    assert torch.equal(buffer.memory()["weights"], before)


@kinds
def test_the_global_generator_decides(kind: type) -> None:
    buffer = filled(kind(50, num_envs=2, **SPECS), Toy(2, 0), 20)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(buffer.sample(30).indices)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


# -- sum trees --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 2, 3, 100, 512, 5000])
def test_tree_finds_what_a_running_sum_finds(capacity: int) -> None:
    rng, tree, weights = np.random.default_rng(0), SumTree(capacity), np.zeros(capacity)
    for num in (1, 3, 40, capacity):
        indices = rng.integers(capacity, size=num)
        given_weights = rng.integers(0, 8, size=num) / 4  # so that sums are exact; some are zero
        tree.set(indices, given_weights)
        weights[indices] = given_weights
        tree.set_one(int(indices[0]), 0.75)
        weights[indices[0]] = 0.75
        assert tree.total == weights.sum()
        np.testing.assert_array_equal(tree.weights(slice(None, capacity)), weights)
        targets = rng.random(300) * tree.total
        np.testing.assert_array_equal(tree.find(targets), np.searchsorted(weights.cumsum(), targets, side="right"))


def test_weights_of_very_different_size_never_lead_to_one_of_zero() -> None:
    rng, tree = np.random.default_rng(0), SumTree(2000)
    weights = 10.0 ** rng.uniform(-30, 30, size=2000) * (rng.random(2000) < 0.5)
    tree.set(np.arange(2000), weights)
    targets = np.concatenate([rng.random(5000) * tree.total, [0.0, tree.total, np.nextafter(tree.total, 0)]])
    assert weights[tree.find(targets)].all()
    tree.set(np.arange(2000), 0.1 * (np.arange(2000) % 3 == 0))
    exact_edges = 0.1 * np.arange(667)  # on the edges between leaves, where rounding decides
    assert (tree.find(exact_edges[exact_edges <= tree.total]) % 3 == 0).all()


# -- putting away and taking out --------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("num_steps", [0, 7, 33], ids=["empty", "part", "full"])
@pytest.mark.parametrize("n_step", [1, 3])
def test_remembering_goes_on_bit_by_bit(kind: type, num_steps: int, n_step: int) -> None:
    toy = Toy(3, 0, shows_resets=True)
    first, second = (kind(40, num_envs=3, n_step=n_step, **SPECS) for _ in range(2))
    filled(first, toy, num_steps)
    if num_steps and kind is PrioritisedReplayBuffer:
        first.update(first.sample(30).indices, torch.randn(30))
    memory = first.memory()
    assert len(memory["states"]) == len(first) == min(40, len(toy.history))
    second.remember({name: value.clone() for name, value in memory.items()})
    for _ in range(4):  # few, so that rows of before and after follow one another
        step, log_ratios = toy.step()
        first.add(step, log_ratios)
        second.add(step, log_ratios)
    for name, value in first.memory().items():
        assert torch.equal(value, second.memory()[name]), name
    drawn = []
    for buffer in (first, second):
        torch.manual_seed(3)
        drawn.append(buffer.sample(200))
    assert torch.equal(drawn[0].states, drawn[1].states) and torch.equal(drawn[0].weights, drawn[1].weights)
    toy.check(drawn[1], n_step)


@kinds
def test_memory_is_a_copy(kind: type) -> None:
    toy = Toy(2, 0)
    buffer = filled(kind(8, num_envs=2, n_step=2, **SPECS), toy, 3)
    memory = buffer.memory()
    kept = {name: value.clone() for name, value in memory.items()}
    filled(buffer, toy, 20)
    assert all(torch.equal(value, kept[name]) for name, value in memory.items())


@kinds
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"capacity": 41}, "remembers 40 transitions of another capacity than 41"),
        ({"capacity": 39}, "remembers 40 transitions of another capacity than 39"),
        ({"num_envs": 3}, "of 2 copies"),
        ({"states": ((2,), np.float64)}, "remembers rows"),
        ({"actions": ((), np.int32)}, "remembers rows"),
        ({"n_step": 1}, "remembers rows"),
        ({"dtype": torch.float32}, "remembers rows"),
    ],
    ids=["larger", "smaller", "copies", "states", "actions", "steps", "dtype"],
)
def test_what_another_buffer_remembers_is_refused(kind: type, changes: dict[str, Any], message: str) -> None:
    options = {"capacity": 40, "num_envs": 2, "n_step": 2, **SPECS}
    memory = filled(kind(**options), Toy(2, 0), 25).memory()
    with pytest.raises(ValueError, match=message):
        kind(**(options | changes)).remember(memory)


# -- refusals ---------------------------------------------------------------------------------------------------------


@kinds
def test_capacity_beyond_the_memory_of_the_machine(kind: type) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}: 10{{12}} transitions would need .* GiB, of which"):
        kind(10**12, **SPECS)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"capacity": 5, "num_envs": 3, "n_step": 2}, "a capacity of 5 does not hold 2 step.s. of 3 copies"),
        ({"capacity": 5, "n_step": 0}, "n_step and num_envs must be at least 1, got 0 and 1"),
        ({"capacity": 5, "num_envs": 0}, "n_step and num_envs must be at least 1, got 1 and 0"),
        ({"capacity": 5, "states": ((), np.dtype("U3"))}, "states cannot have the dtype <U3"),
    ],
    ids=["small", "no step", "no copy", "text"],
)
def test_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(**(SPECS | options))


def test_construction_of_priorities() -> None:
    with pytest.raises(ValueError, match="exponent and correction must be at least 0, got -1 and 0.4"):
        PrioritisedReplayBuffer(5, exponent=-1, **SPECS)


@pytest.mark.parametrize("part", ["states", "actions", "next_states"])
def test_step_of_another_shape(part: str) -> None:
    step, _ = Toy(2, 0).step()
    buffer = ReplayBuffer(8, num_envs=2, **SPECS)
    wrong = replace(step, **{part: getattr(step, part)[:1]})
    with pytest.raises(ValueError, match=rf"ReplayBuffer: {part} of a step must be \[2.*\], got \[1"):
        buffer.add(wrong)
    assert len(buffer) == 0
