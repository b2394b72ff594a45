"""`cai.from_pyro`: every joint assignment against the program itself, conditioned on it and traced by Pyro.

The oracle knows nothing of tables: `poutine.condition` sets all latent sites, and the trace's log-probabilities are
added up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from cai.graph.conversions.from_programs import from_pyro
from cai.graph.factor_graph import FactorGraph

Program = Callable[..., Any]
Layout = Callable[[Tensor], Tensor]


def log_joint(program: Program, values: dict[str, Tensor]) -> float:
    """The joint log-density of a program at values of all its latent sites, by Pyro."""
    return float(poutine.trace(poutine.condition(program, data=values)).get_trace().log_prob_sum())


def assignments(graph: FactorGraph) -> Iterator[dict[str, int]]:
    names = [variable.name for variable in graph.variables]
    for values in itertools.product(*(range(variable.cardinality) for variable in graph.variables)):
        yield dict(zip(names, values, strict=True))


def site_values(assignment: dict[str, int], layouts: dict[str, Layout]) -> dict[str, Tensor]:
    """From `z[0,1]: 2` to the tensors that the sites take: `layouts` makes them of the grid of values."""
    indices: dict[str, dict[tuple[int, ...], int]] = {}
    for name, value in assignment.items():
        site, _, index = name.removesuffix("]").partition("[")
        indices.setdefault(site, {})[tuple(int(i) for i in index.split(",")) if index else ()] = value
    values = {}
    for site, entries in indices.items():
        shape = [size + 1 for size in max(entries)]
        grid = torch.zeros(shape, dtype=torch.long)
        for index, value in entries.items():
            grid[index] = value
        values[site] = layouts.get(site, lambda grid: grid)(grid)
    return values


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05


def categorical(weights: Tensor) -> dist.Categorical:
    return dist.Categorical(probs=weights)


def normal(mean: Tensor) -> dist.Normal:
    return dist.Normal(mean, torch.tensor(0.7, dtype=torch.float64))


# -- the programs -----------------------------------------------------------------------------------------------------


def hidden_markov() -> None:
    """Recycled dimensions: the site of every other step has the same one."""
    state = pyro.sample("z0", categorical(rows(3)), infer={"enumerate": "parallel"})
    for t in pyro.markov(range(1, 4)):
        state = pyro.sample(f"z{t}", categorical(rows(3, 3)[state]), infer={"enumerate": "parallel"})
        pyro.sample(f"y{t}", normal(state.double()), obs=torch.tensor(0.3 * t, dtype=torch.float64))


def nested_plates() -> None:
    kind = pyro.sample("kind", categorical(rows(2)))
    with pyro.plate("groups", 2, dim=-2):
        level = pyro.sample("level", categorical(rows(2, 2, seed=1)[kind]))
        with pyro.plate("items", 2, dim=-1):
            flag = pyro.sample("flag", dist.Bernoulli(rows(2, 2, seed=2)[kind, level] / 2))
            pyro.sample("y", normal(flag + level), obs=rows(2, 2, seed=3))


def plate_of_data() -> None:
    """A plate that holds observations only, of a latent outside it."""
    z = pyro.sample("z", categorical(rows(3)))
    with pyro.plate("data", 4):
        pyro.sample("y", normal(z.double()), obs=rows(4))


def sequential_plate() -> None:
    values = [pyro.sample(f"z{i}", categorical(rows(2, seed=i))) for i in pyro.plate("loop", 3)]
    pyro.factor("all", torch.where((values[0] == values[1]) & (values[1] == values[2]), 1.5, -0.5).double())


def reversed_plates() -> None:
    """Plates entered in the other order than their dimensions say."""
    with pyro.plate("inner", 2, dim=-1), pyro.plate("outer", 3, dim=-2):
        z = pyro.sample("z", dist.Bernoulli(rows(3, 2) / 2))
        pyro.factor("f", rows(3, 2) * z)


def scaled_and_masked() -> None:
    z = pyro.sample("z", categorical(rows(3)))
    with poutine.scale(scale=0.25):
        w = pyro.sample("w", categorical(rows(3, 2)[z]))
    with poutine.mask(mask=z == 1):
        pyro.sample("y", normal(w.double()), obs=torch.tensor(0.4, dtype=torch.float64))
    pyro.sample("unseen", normal(w.double()).mask(False), obs=torch.tensor(0.4, dtype=torch.float64))


def vectors() -> None:
    """Sites with event dimensions."""
    one_hot = pyro.sample("one_hot", dist.OneHotCategorical(rows(3) / rows(3).sum()))
    count = pyro.sample("count", dist.Binomial(3, (one_hot * rows(3)).sum(-1) / 2))
    mean = torch.stack(torch.broadcast_tensors(count, one_hot[..., 0]), -1)
    pyro.sample("y", normal(mean).to_event(1), obs=rows(2))


def functions_of_sites() -> None:
    z = pyro.sample("z", categorical(rows(3)))
    double = pyro.deterministic("double", 2.0 * z)
    point = pyro.sample("point", dist.Delta(double + 1.0))
    pyro.sample("y", normal(point.double()), obs=torch.tensor(2.0, dtype=torch.float64))


def partly_observed() -> None:
    seen = torch.tensor([True, False])
    with pyro.plate("data", 2):
        z = pyro.sample("z", dist.Bernoulli(rows(2) / 2), obs=torch.tensor([1.0, 0.0]).double(), obs_mask=seen)
        pyro.sample("y", normal(z), obs=rows(2))


def one_value() -> None:
    z = pyro.sample("z", categorical(rows(1)))
    w = pyro.sample("w", categorical(rows(1, 3)[z]))
    pyro.factor("f", (z + w).double())


PROGRAMS: list[tuple[Program, dict[str, Layout]]] = [
    (hidden_markov, {}),
    (nested_plates, {"flag": Tensor.double, "level": lambda grid: grid[:, None]}),
    (plate_of_data, {}),
    (sequential_plate, {}),
    (reversed_plates, {"z": lambda grid: grid.T.double()}),
    (scaled_and_masked, {}),
    (vectors, {"one_hot": lambda grid: torch.eye(3).double()[grid], "count": Tensor.double}),
    (functions_of_sites, {}),
    (partly_observed, {"z_unobserved": Tensor.double}),
    (one_value, {}),
]


@pytest.mark.parametrize(("program", "layouts"), PROGRAMS, ids=[program.__name__ for program, _ in PROGRAMS])
def test_every_assignment_has_the_programs_density(program: Program, layouts: dict[str, Layout]) -> None:
    graph = from_pyro(program)
    for assignment in assignments(graph):
        found = float(graph.log_density(assignment))
        assert found == pytest.approx(log_joint(program, site_values(assignment, layouts)), abs=1e-10)


@pytest.mark.parametrize("program", [hidden_markov, plate_of_data, sequential_plate, one_value])
def test_evidence_is_that_of_pyros_enumeration(program: Program) -> None:
    graph = from_pyro(program)
    total = torch.stack([graph.log_density(assignment) for assignment in assignments(graph)]).logsumexp(0)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(program), lambda: None)
    assert float(total) == pytest.approx(-float(loss), abs=1e-10)


def test_names() -> None:
    graph = from_pyro(nested_plates)
    flags = [f"flag[{i},{j}]" for i in range(2) for j in range(2)]
    assert [variable.name for variable in graph.variables] == ["kind", "level[0]", "level[1]", *flags]
    scopes = {factor.name: factor.variables for factor in graph.factors}
    assert scopes["flag[1,0]"] == ("kind", "level[1]", "flag[1,0]")
    assert scopes["y[0,1]"] == ("level[0]", "flag[0,1]")
    assert not graph.evidence


def test_arguments_reach_the_program() -> None:
    def program(weights: Tensor, *, name: str) -> None:
        pyro.sample(name, categorical(weights))

    (variable,) = from_pyro(program, rows(4), name="here").variables
    assert (variable.name, variable.cardinality) == ("here", 4)


def test_a_conditioned_program_has_fewer_variables() -> None:
    known = poutine.condition(hidden_markov, data={"z1": torch.tensor(2), "z3": torch.tensor(0)})
    graph = from_pyro(known)
    assert [variable.name for variable in graph.variables] == ["z0", "z2"]
    for assignment in assignments(graph):
        values = site_values(assignment, {})
        assert float(graph.log_density(assignment)) == pytest.approx(log_joint(known, values), abs=1e-10)


# -- exactness --------------------------------------------------------------------------------------------------------


def test_a_probability_of_zero_forbids() -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Categorical(probs=torch.tensor([0.25, 0.75, 0.0])))
        with pyro.plate("plate", 2):
            pyro.sample("w", dist.Bernoulli(probs=torch.tensor([0.0, 1.0, 0.5])[z]))
        pyro.sample("n", dist.Binomial(2, probs=torch.tensor([0.0, 1.0, 0.5])[z]))
        one_hot = dist.OneHotCategorical(probs=torch.tensor([1.0, 0.0]).expand(2, 2))
        pyro.sample("o", one_hot.to_event(1).mask(True), obs=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))

    tables = {factor.name: factor.log_table for factor in from_pyro(program).factors}
    inf = torch.inf
    assert torch.allclose(tables["z"], torch.tensor([0.25, 0.75, 0.0]).log())
    half, quarter = torch.tensor(0.5).log(), torch.tensor(0.25).log()
    assert torch.equal(tables["w[1]"], torch.tensor([[0.0, -inf], [-inf, 0.0], [half, half]]))
    assert torch.allclose(tables["n"], torch.tensor([[0.0, -inf, -inf], [-inf, -inf, 0.0], [quarter, half, quarter]]))
    assert tables["o"] == -inf


def test_a_probability_below_the_machines_epsilon_is_kept() -> None:
    tiny = torch.tensor([1e-30, 1.0, 1e-200], dtype=torch.float64)

    def program() -> None:
        z = pyro.sample("z", dist.Categorical(probs=tiny))
        pyro.sample("w", dist.Bernoulli(probs=tiny[z]))

    z, w = (factor.log_table for factor in from_pyro(program).factors)
    assert torch.allclose(z, tiny.log(), rtol=1e-12)
    assert torch.allclose(w[:, 1], tiny.log(), rtol=1e-12)


def test_logits_are_taken_as_they_are() -> None:
    logits = torch.tensor([0.0, -50.0, -800.0, -torch.inf], dtype=torch.float64)
    (factor,) = from_pyro(lambda: pyro.sample("z", dist.Categorical(logits=logits))).factors
    assert torch.allclose(factor.log_table, logits, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tables_have_the_programs_dtype(dtype: torch.dtype) -> None:
    (factor,) = from_pyro(lambda: pyro.sample("z", dist.Categorical(torch.ones(2, dtype=dtype)))).factors
    assert factor.log_table.dtype == dtype


def test_gradients_reach_the_parameters() -> None:
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    graph = from_pyro(lambda: pyro.sample("z", dist.Categorical(logits=logits)))
    (gradient,) = torch.autograd.grad(graph.log_density({"z": 1}), logits)
    assert torch.allclose(gradient, torch.tensor([0.0, 1.0, 0.0]).double() - 1 / 3)


def test_a_long_chain_without_markov() -> None:
    """Two hundred sites fit into torch's 64 dimensions, since no density holds more than two of them."""

    def chain() -> None:
        state = torch.tensor(0)
        for t in range(200):
            state = pyro.sample(f"z{t}", categorical(rows(2, 2, seed=t)[state]))

    graph = from_pyro(chain)
    assert [factor.variables for factor in graph.factors[1:]] == [(f"z{t}", f"z{t + 1}") for t in range(199)]
    drawn = {f"z{t}": torch.tensor(t % 3 % 2) for t in range(200)}
    assert float(graph.log_density(drawn)) == pytest.approx(log_joint(chain, drawn), rel=1e-12)


# -- what is left as it was -------------------------------------------------------------------------------------------


def test_generator_and_parameters_are_left_alone() -> None:
    pyro.get_param_store().clear()
    known = pyro.param("known", torch.tensor([0.1, 0.9], dtype=torch.float64))

    def program() -> None:
        pyro.param("new", torch.tensor(1.0))
        pyro.sample("z", dist.Categorical(pyro.param("known")))

    before = torch.random.get_rng_state()
    (factor,) = from_pyro(program).factors
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(pyro.get_param_store()) == ["known"]
    assert pyro.param("known") is known
    factor.log_table[0].backward()
    assert known.grad is not None  # a table of parameters learns
    assert torch.allclose(factor.log_table, known.log())
    pyro.get_param_store().clear()


# -- what cannot be converted -----------------------------------------------------------------------------------------


def continuous() -> None:
    pyro.sample("z", categorical(rows(2)))
    pyro.sample("height", dist.Normal(0.0, 1.0))


def unbounded() -> None:
    pyro.sample("number", dist.Poisson(2.0))


def correlated_vector() -> None:
    pyro.sample("bits", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))


def subsampled() -> None:
    with pyro.plate("data", 10, subsample_size=3):
        pyro.sample("z", dist.Bernoulli(0.5))


def batch_without_plate() -> None:
    pyro.sample("batch", dist.Bernoulli(torch.full((3,), 0.5)))


def branching() -> None:
    z = pyro.sample("gate", dist.Bernoulli(0.5))
    if z:
        pyro.sample("then", dist.Bernoulli(0.5))


def quietly_branching() -> None:
    """Raises nothing under enumeration: the sum over all values is positive."""
    z = pyro.sample("z", dist.Bernoulli(0.5))
    if z.sum() > 0:
        pyro.sample("then", dist.Bernoulli(0.5))


def quietly_reducing() -> None:
    z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.factor("reduced", z.max())


def mixing_indices() -> None:
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.factor("pair", z[..., 0] * z[..., 1])


def picking_an_index() -> None:
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)))
        pyro.factor("first", z[..., :1].expand(z.shape))


def too_wide() -> None:
    bits = [pyro.sample(f"z{i}", dist.Bernoulli(0.5)) for i in range(70)]
    pyro.factor("count", sum(bits))


def through_numpy() -> None:
    z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.factor("outside", torch.as_tensor(z.detach().numpy() * 2.0))


def varying_support() -> None:
    pyro.sample("count", dist.Binomial(torch.tensor([2, 3]), 0.5).to_event(0))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (continuous, "the latent site 'height' is continuous"),
        (unbounded, "the latent site 'number' has no finite support"),
        (correlated_vector, r"site 'bits' draws vectors of shape \[3\]"),
        (subsampled, "site 'z' is in plate 'data', which takes 3 of 10"),
        (batch_without_plate, "site 'batch' has a batch dimension -1 of size 3"),
        (branching, "last site reached is 'gate'"),
        (quietly_branching, "site 'then' is reached in some runs and not in others"),
        (quietly_reducing, "site 'reduced' has another density"),
        (mixing_indices, "site 'pair' is outside plate 'data' and depends on site 'z'"),
        (picking_an_index, "site 'first' has another density"),
        (too_wide, "site 'count' depends on 70 latent sites"),
        (through_numpy, "site 'outside' has another density"),
        (varying_support, "the values of site 'count'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_converted(program: Program, message: str) -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=message):
        from_pyro(program)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_no_program() -> None:
    with pytest.raises(ValueError, match="expected a Pyro program, a callable, got int"):
        from_pyro(3)
