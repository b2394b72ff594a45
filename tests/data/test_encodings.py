"""States and actions of every kind of space, as learners write them, and back."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

import cai
from cai.data.encodings import ActionEncoding, StateEncoding

INF = np.inf
DISCRETE = {
    "discrete": spaces.Discrete(4),
    "discrete that starts at 3": spaces.Discrete(4, start=3),
    "grid": cai.GridSpace(2, 2, (0, 1, 2, 3), ()),
    "several": spaces.MultiDiscrete([2, 3, 4]),
    "several with starts": spaces.MultiDiscrete([2, 3], start=[-1, 5]),
    "a table of several": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "int32": spaces.MultiDiscrete([2, 3], dtype=np.int32),
    "bits": spaces.MultiBinary(3),
    "a table of bits": spaces.MultiBinary([2, 2]),
}
BOXES = {
    "box": spaces.Box(-2.0, 2.0, (3,), np.float32),
    "float64": spaces.Box(np.array([-0.1, 0.2]), np.array([0.1, 0.7]), dtype=np.float64),
    "matrix": spaces.Box(0.0, 1.0, (2, 3), np.float32),
    "number": spaces.Box(-1.0, 3.0, (), np.float32),
    "unbounded": spaces.Box(-INF, INF, (2,), np.float64),
}
IMAGE = spaces.Box(0, 255, (2, 3, 3), np.uint8)
HALF = spaces.Box(np.array([0.0, -INF], np.float32), np.array([1.0, 5.0], np.float32))


def samples(space: spaces.Space, *batch: int) -> np.ndarray:
    space.seed(0)
    rows = [space.sample() for _ in range(math.prod(batch))]
    return np.array(rows, dtype=space.dtype).reshape((*batch, *(space.shape or ())))


def one_hot_by_hand(space: spaces.Space, state: np.ndarray) -> list[float]:
    """Features of one state, by loops."""
    if isinstance(space, spaces.MultiBinary | spaces.Box):
        return [float(value) for value in np.ravel(state)]
    sizes = np.ravel(space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n)
    values = np.ravel(state) - np.ravel(space.start)
    return [float(value == i) for value, size in zip(values, sizes, strict=True) for i in range(size)]


@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", [*DISCRETE, *BOXES, "image"])
def test_features_are_those_made_by_hand(name: str, batch: tuple[int, ...]) -> None:
    space = {**DISCRETE, **BOXES, "image": IMAGE}[name]
    encoding, states = StateEncoding(space), samples(space, *batch)
    features = encoding.features(states)
    assert features.shape == (*batch, encoding.size)
    assert features.dtype == torch.float32
    assert encoding.batch_shape(states) == batch
    expected = [one_hot_by_hand(space, row) for row in states.reshape(-1, *encoding.row_shape)]
    np.testing.assert_allclose(features.reshape(-1, encoding.size), np.array(expected, np.float32), rtol=0)
    torch.testing.assert_close(encoding.features(torch.as_tensor(states)), features, rtol=0, atol=0)


@pytest.mark.parametrize("name", [*DISCRETE, *BOXES])
def test_rows_have_the_form_of_the_space(name: str) -> None:
    space = {**DISCRETE, **BOXES}[name]
    for encoding in (StateEncoding(space), ActionEncoding(space)):
        row = np.zeros(encoding.row_shape, encoding.row_dtype)
        assert row.shape == space.shape
        assert row.dtype == space.dtype


def test_discrete_states_have_an_index() -> None:
    encoding = StateEncoding(spaces.Discrete(4, start=3))
    assert encoding.num_states == 4
    assert encoding.index(np.array([3, 6])).tolist() == [0, 3]
    assert encoding.index(torch.tensor(4)).item() == 1
    assert encoding.index(5).dtype == torch.int64
    assert encoding.index(np.zeros(0, np.int64)).shape == (0,)
    for outside in (2, 7, [3, 7]):
        with pytest.raises(ValueError, match=r"states: [27] is outside Discrete\(4, start=3\)"):
            encoding.features(outside)
        with pytest.raises(ValueError, match=r"states: [27] is outside"):
            encoding.index(outside)
    with pytest.raises(ValueError, match="whole numbers"):
        encoding.index(np.array([3.5]))
    assert StateEncoding(spaces.MultiDiscrete([2, 3])).num_states is None
    with pytest.raises(ValueError, match="only those of a Discrete space have an index"):
        StateEncoding(spaces.MultiDiscrete([2, 3])).index(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="not within MultiDiscrete"):
        StateEncoding(spaces.MultiDiscrete([2, 3])).features(np.array([[0, 0], [2, 0]]))


def test_features_of_read_only_and_reversed_arrays() -> None:
    encoding = StateEncoding(spaces.Box(-INF, INF, (3,), np.float32))
    states = np.arange(6, dtype=np.float32).reshape(2, 3)
    states.flags.writeable = False
    assert encoding.features(states).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert encoding.features(np.arange(3, dtype=np.float32)[::-1].copy()).tolist() == [2, 1, 0]


def test_features_stay_on_the_device_of_the_states() -> None:
    states = torch.zeros(5, 3, dtype=torch.float64, device="meta")
    assert StateEncoding(spaces.Box(-1.0, 1.0, (3,))).features(states).device.type == "meta"
    encoding = ActionEncoding(spaces.Box(-2.0, 2.0, (3,)))
    with torch.device("meta"):
        units = torch.zeros(5, 3)
    assert encoding.from_unit(units).device.type == encoding.to_unit(units).device.type == "meta"


def test_states_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"states: expected \[\*batch, 3\], got \[2, 4\]"):
        StateEncoding(spaces.Box(-1.0, 1.0, (3,))).features(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"states: expected \[\*batch, 2, 3\], got \[3\]"):
        StateEncoding(spaces.Box(-1.0, 1.0, (2, 3))).features(torch.zeros(3))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(2)),
        None,
    ],
    ids=["dict", "tuple", "text", "sequence", "none"],
)
def test_composite_spaces_are_refused(space: spaces.Space | None) -> None:
    with pytest.raises(ValueError, match=r"states: expected .* gymnasium.wrappers.FlattenObservation"):
        StateEncoding(space)
    with pytest.raises(ValueError, match=r"actions: expected .* gymnasium.wrappers.TransformAction"):
        ActionEncoding(space)


@pytest.mark.parametrize("batch", [(1,), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", [*DISCRETE, *BOXES])
def test_actions_go_there_and_back(name: str, batch: tuple[int, ...]) -> None:
    space = {**DISCRETE, **BOXES}[name]
    encoding, actions = ActionEncoding(space), samples(space, *batch)
    inside = encoding.from_env(actions)
    components = () if isinstance(space, spaces.Discrete) else (math.prod(space.shape),)
    assert inside.shape == (*batch, *components)
    assert inside.dtype == (torch.int64 if encoding.is_discrete else torch.float32)
    if encoding.is_discrete:
        assert inside.min() >= 0
    back = encoding.to_env(inside)
    assert back.dtype == space.dtype
    assert back.shape == actions.shape
    np.testing.assert_allclose(back, actions, rtol=1e-6)
    assert all(space.contains(np.asarray(row)) for row in back.reshape(-1, *encoding.row_shape))


@pytest.mark.parametrize("name", DISCRETE)
def test_joint_actions_count_every_combination_once(name: str) -> None:
    encoding = ActionEncoding(DISCRETE[name])
    assert encoding.num_actions == math.prod(encoding.sizes)
    assert encoding.log_volume == pytest.approx(math.log(encoding.num_actions))
    assert (encoding.size, encoding.low, encoding.high) == (0, None, None)
    index = torch.arange(encoding.num_actions)
    combinations = list(itertools.product(*(range(size) for size in encoding.sizes)))
    components = encoding.from_joint(index)
    expected = torch.tensor(combinations)
    assert torch.equal(components, expected[:, 0] if components.dim() == 1 else expected)
    assert torch.equal(encoding.to_joint(components), index)
    assert torch.equal(encoding.to_joint(encoding.from_joint(index[:, None])), index[:, None])


@pytest.mark.parametrize("name", ["box", "float64", "matrix", "number"])
def test_units_of_bounded_boxes(name: str) -> None:
    space = BOXES[name]
    encoding = ActionEncoding(space)
    low, high = (np.ravel(bound).astype(np.float64) for bound in (space.low, space.high))
    assert not encoding.is_discrete
    assert (encoding.sizes, encoding.num_actions, encoding.size) == ((), 0, low.size)
    np.testing.assert_array_equal(encoding.low, low.astype(np.float32))
    np.testing.assert_array_equal(encoding.high, high.astype(np.float32))
    assert encoding.log_volume == pytest.approx(np.log(high - low).sum(), abs=1e-12)
    torch.manual_seed(0)
    units = torch.rand(50, low.size) * 2 - 1
    actions = encoding.from_unit(units)
    np.testing.assert_allclose(actions, low + (units.numpy() + 1) / 2 * (high - low), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(encoding.to_unit(actions), units, rtol=1e-5, atol=1e-5)
    ends = encoding.to_env(encoding.from_unit(torch.tensor([[-1.0], [1.0]]).expand(2, low.size)))
    np.testing.assert_allclose(ends.reshape(2, -1), [low, high], rtol=1e-6)
    assert all(space.contains(np.asarray(row)) for row in ends)


def test_an_unbounded_box_has_no_units_of_its_own() -> None:
    encoding, units = ActionEncoding(BOXES["unbounded"]), torch.tensor([[3.0, -400.0]])
    assert (encoding.low, encoding.high, encoding.log_volume) == (None, None, None)
    assert encoding.from_unit(units) is encoding.to_unit(units) is units
    np.testing.assert_array_equal(encoding.to_env(units), [[3.0, -400.0]])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (HALF, r"coordinate 1 of .* is not bounded from both sides: \[-inf, 5.0\]"),
        (
            spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 1.0]), dtype=np.float64),
            r"coordinate 1 of .* has no room: \[1.0, 1.0\]",
        ),
        (IMAGE, "a box of whole numbers"),
    ],
    ids=["half bounded", "flat", "whole numbers"],
)
def test_boxes_that_no_policy_fits_are_refused(space: spaces.Box, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionEncoding(space)
    assert StateEncoding(space).size == math.prod(space.shape)


def test_rounding_is_put_on_the_bound_and_no_more() -> None:
    space = BOXES["float64"]  # 0.1 in float32 is above 0.1
    encoding = ActionEncoding(space)
    actions = encoding.to_env(torch.tensor([[0.1, 0.7], [-0.1, 0.2]]))
    assert float(np.float32(0.1)) > 0.1
    assert all(space.contains(np.asarray(row)) for row in actions)
    with pytest.raises(ValueError, match=r"row 1 is \[0.10\d*, 0.5\], outside Box"):
        encoding.to_env(torch.tensor([[0.1, 0.7], [0.11, 0.5]]))
    with pytest.raises(cai.errors.NonFinite, match="row 1 is NaN"):
        encoding.to_env(torch.tensor([[0.1, 0.7], [torch.nan, 0.5]]))
    with pytest.raises(cai.errors.NonFinite, match="row 0 is NaN"):
        ActionEncoding(BOXES["unbounded"]).to_env(torch.tensor([[0.1, torch.nan]]))


@pytest.mark.parametrize(
    ("name", "action", "row"),
    [("discrete", [0, 4], 1), ("discrete", [-1, 0], 0), ("several", [[0, 0, 0], [0, 3, 0]], 1)],
)
def test_actions_outside_are_refused(name: str, action: list, row: int) -> None:
    with pytest.raises(ValueError, match=rf"actions: row {row} is .*, outside"):
        ActionEncoding(DISCRETE[name]).to_env(torch.tensor(action))


def test_what_an_action_space_does_not_have_is_refused() -> None:
    box, discrete = ActionEncoding(BOXES["box"]), ActionEncoding(DISCRETE["several"])
    with pytest.raises(ValueError, match="have no index"):
        box.to_joint(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="have no index"):
        box.from_joint(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="is not a box"):
        discrete.to_unit(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="is not a box"):
        discrete.from_unit(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"expected \[\*batch, 3\], got \[1, 2\]"):
        box.inside(np.zeros((1, 2), np.float32))


def test_gradients_flow_through_units() -> None:
    units = torch.tensor([[0.25, -0.5, 1.0]], requires_grad=True)
    ActionEncoding(BOXES["box"]).from_unit(units).sum().backward()
    np.testing.assert_allclose(units.grad, np.full((1, 3), 2.0))
