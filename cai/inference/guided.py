"""A Pyro program with a guide, and the parameters of the guide: what stochastic variational inference works on.

    ELBO = E_q[log p(x, O) - log q(x)] <= log p(O),     x drawn from the guide q, replayed in the program p

Parameters live in a store of their own, which takes the place of Pyro's global one for as long as something runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from cai.graph.conversions.sites import FAILURES, PYRO_LOCK, is_point
from cai.simulate.seeding import seeded

_PLATE = "cai_particles"


@dataclass(frozen=True, eq=False)
class Store:
    """Parameters by name, apart from those of Pyro's global store.

    Attributes:
        state: What `pyro.get_param_store().scope` takes and keeps.
    """

    state: Any = field(default_factory=lambda: {"params": {}, "constraints": {}})

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Puts these parameters in the place of the global ones."""
        with PYRO_LOCK, pyro.get_param_store().scope(self.state):
            yield

    @property
    def params(self) -> dict[str, Tensor]:
        """The unconstrained parameters: the leaves that an optimiser changes."""
        return self.state["params"]

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return next((param.device for param in self.params.values()), torch.device("cpu"))

    def values(self) -> dict[str, Tensor]:
        """Copies the unconstrained parameters."""
        return {name: param.detach().clone() for name, param in self.params.items()}

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Sets the unconstrained parameters.

        Raises:
            ValueError: Other parameters, or of other shapes, than these.
        """
        shapes = {name: list(param.shape) for name, param in self.params.items()}
        found = {name: list(value.shape) for name, value in values.items()}
        if shapes != found:
            raise ValueError(f"the guide has parameters {shapes}, those given are {found}")
        with torch.no_grad():
            for name, param in self.params.items():
                param.copy_(values[name])


@dataclass(frozen=True, eq=False)
class Particles:
    """Draws from a guide, replayed in the program.

    Attributes:
        values: The value of each latent or certain site of the program, `[N, ...]`.
        log_factors: The log-density of each observed site, `[N]`, nats.
        log_weights: log p(x, O) - log q(x), `[N]`, nats.
    """

    values: dict[str, Tensor]
    log_factors: dict[str, Tensor]
    log_weights: Tensor


@dataclass(frozen=True, eq=False)
class GuidedProgram:
    """A program and its guide.

    Attributes:
        model: The program.
        guide: The guide.
        store: The parameters of both.
        nesting: How many dimensions their plates take.
        broadcasts: Whether a plate around them makes a batch of particles, each as if it were alone.
        is_random: Whether the guide draws anything; a point estimate has no density, and gives no bound.
    """

    model: Callable[[], Any]
    guide: Callable[[], Any]
    store: Store
    nesting: int
    broadcasts: bool
    is_random: bool

    def draw(self, num: int, seed: int | None) -> Particles:
        """Draws particles.

        Args:
            num: Number of particles N.
            seed: The seed; None takes fresh entropy.
        """
        with self.store.opened(), seeded(seed, self.store.device), torch.no_grad():
            if self.broadcasts:
                model, guide = (_in_plate(program, num, self.nesting) for program in (self.model, self.guide))
                return _draw(model, guide, num, self.nesting)
            singles = [_draw(self.model, self.guide, 1, self.nesting) for _ in range(num)]
        return Particles(
            {name: torch.cat([single.values[name] for single in singles]) for name in singles[0].values},
            {name: torch.cat([single.log_factors[name] for single in singles]) for name in singles[0].log_factors},
            torch.cat([single.log_weights for single in singles]),
        )


def guided_program(model: Callable[[], Any], make_guide: Callable[[Any], Any], seed: int) -> GuidedProgram:
    """Sets a guide up on a program: makes its parameters, and finds out what can be done with both.

    Args:
        model: The program.
        make_guide: Makes the guide for it.
        seed: The seed of what is random in the start.
    """
    store = Store()
    with store.opened(), seeded(seed):
        guide = make_guide(model)
        first = poutine.trace(guide).get_trace()
        replayed = poutine.trace(poutine.replay(model, trace=first)).get_trace()
        sites = [*first.nodes.values(), *replayed.nodes.values()]
        dims = [frame.dim for site in sites for frame in site.get("cond_indep_stack", ()) if frame.dim is not None]
        nesting = -min(dims, default=0)
        with torch.no_grad():
            broadcasts = _broadcasts(model, guide, nesting)
            is_random = bool(_drawn(first))
    return GuidedProgram(model, guide, store, nesting, broadcasts, is_random)


def _in_plate(program: Callable[[], Any], num: int, nesting: int) -> Callable[[], Any]:
    def batch() -> None:
        with pyro.plate(_PLATE, num, dim=-1 - nesting):
            program()

    return batch


def _draw(model: Callable[[], Any], guide: Callable[[], Any], num: int, nesting: int) -> Particles:
    """Runs guide and program once, in a plate of `num` particles or alone."""
    guide_trace = poutine.trace(guide).get_trace()
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace()
    densities = [_densities(trace, num, nesting) for trace in (model_trace, guide_trace)]
    nodes = {name: model_trace.nodes[name] for name in densities[0]}
    values = {name: node for name, node in nodes.items() if not node["is_observed"] or is_point(node["fn"])}
    return Particles(
        {name: _values(node, num, nesting) for name, node in values.items()},
        {name: densities[0][name] for name in nodes if name not in values},
        _total(densities[0], num) - _total(densities[1], num),
    )


def _densities(trace: Any, num: int, nesting: int) -> dict[str, Tensor]:
    """The log-density of each sample site for each particle, `[N]`."""
    trace.compute_log_prob()
    densities = {}
    for name, node in _sites(trace).items():
        shape = torch.broadcast_shapes(node["log_prob"].shape, (num, *[1] * nesting))
        densities[name] = node["log_prob"].expand(shape).reshape(num, -1).sum(1)
    return densities


def _total(densities: Mapping[str, Tensor], num: int) -> Tensor:
    """Adds up what each particle has, `[N]`."""
    return sum(densities.values(), next(iter(densities.values()), torch.zeros(num)).new_zeros(num))


def _sites(trace: Any) -> dict[str, Any]:
    return {n: node for n, node in trace.nodes.items() if node["type"] == "sample" and not site_is_subsample(node)}


def _drawn(trace: Any) -> dict[str, Any]:
    """The sites that drew something: neither observed nor certain."""
    return {n: node for n, node in _sites(trace).items() if not node["is_observed"] and not is_point(node["fn"])}


def _values(node: Any, num: int, nesting: int) -> Tensor:
    """What a site drew for each particle, `[N, ...]`, dimensions of size one for plates taken away."""
    value, event_shape = node["value"], node["fn"].event_shape
    batch = value.shape[: value.dim() - len(event_shape)]
    shape = torch.broadcast_shapes(batch, (num, *[1] * nesting))
    return value.expand(*shape, *event_shape).reshape(num, *(n for n in shape[1:] if n > 1), *event_shape)


def _broadcasts(model: Callable[[], Any], guide: Callable[[], Any], nesting: int) -> bool:
    """Compares two particles in a plate with each of them alone: user code may sum over a batch without an error."""
    try:
        guide_trace = poutine.trace(_in_plate(guide, 2, nesting)).get_trace()
        replayed = poutine.replay(_in_plate(model, 2, nesting), trace=guide_trace)
        pairs = [(model, poutine.trace(replayed).get_trace()), (guide, guide_trace)]
        return all(_as_if_alone(program, trace, nesting) for program, trace in pairs)
    except FAILURES:
        return False


def _as_if_alone(program: Callable[[], Any], trace: Any, nesting: int) -> bool:
    together = _total(_densities(trace, 2, nesting), 2)
    drawn = _drawn(trace)
    for particle in range(2):
        dims = {name: -1 - nesting - len(node["fn"].event_shape) for name, node in drawn.items()}
        data = {name: node["value"].select(dims[name], particle) for name, node in drawn.items()}
        alone = poutine.trace(poutine.condition(program, data=data)).get_trace().log_prob_sum()
        if not torch.allclose(torch.as_tensor(alone, dtype=together.dtype), together[particle], rtol=1e-3, atol=1e-3):
            return False
    return True
