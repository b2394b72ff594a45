"""Running a Pyro program on values of our choice, and what its sites are.

A run calls the program once with the value of each latent site given, and returns the log-density of every site. In the
first run values are drawn, and marked with the name of their site (`pyro.ops.provenance`), so that each density tells
which sites it depends on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from cai.graph.conversions.densities import exact_log_prob

#: Pyro has one stack of handlers and one parameter store for all threads: one of them at a time runs a program.
PYRO_LOCK = threading.RLock()
#: What torch, Pyro and user code raise where a program written for one value gets many at once.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Site:
    """A statement of a program.

    Attributes:
        name: Its name.
        plates: The vectorised plates around it, the outer first.
        upstream: The latent sites that its density depends on, in the program's order, itself last if it is latent.
        values: What a latent site can be, `[K, *event]`; no values, `[0]`, for any other.
    """

    name: str
    plates: tuple[CondIndepStackFrame, ...]
    upstream: tuple[str, ...]
    values: Tensor

    @property
    def size(self) -> int:
        """How many values it has."""
        return len(self.values)

    @property
    def is_latent(self) -> bool:
        """Whether it is a variable of the graph."""
        return self.size > 0

    @property
    def layout(self) -> tuple[int, ...]:
        """The sizes of its plates, each at its dimension: the site's batch shape."""
        sizes = {frame.dim: frame.size for frame in self.plates if frame.dim is not None}
        return tuple(sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0))

    def places(self) -> Iterator[dict[str, int]]:
        """Gives every index of its plates, by their names."""
        for index in itertools.product(*(range(frame.size) for frame in self.plates)):
            yield {frame.name: i for frame, i in zip(self.plates, index, strict=True)}

    def name_at(self, place: Mapping[str, int]) -> str:
        """Gives the name of one index, such as `z[1,2]`; what `place` says of other plates does not count."""
        index = ",".join(str(place[frame.name]) for frame in self.plates)
        return f"{self.name}[{index}]" if index else self.name


@contextmanager
def aside() -> Iterator[None]:
    """Keeps the global generator and parameter store as they are, whatever runs inside; what it draws is repeatable."""
    store = pyro.get_param_store()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with PYRO_LOCK, torch.random.fork_rng(devices), store.scope(store.get_state()):
        torch.manual_seed(0)
        yield


def explored(program: Callable[[], Any]) -> dict[str, Site]:
    """Runs a program as it is, and gives its sites by name, in its order.

    Raises:
        ValueError: A latent site that cannot be enumerated, a subsampled plate, or a batch without a plate.
    """
    supports: dict[str, Tensor] = {}

    def draw(msg: Any) -> Tensor:
        supports[msg["name"]] = _support(msg["name"], msg["fn"])
        return track_provenance(detach_provenance(msg["fn"].sample()), frozenset({msg["name"]}))

    messages = _traced(program, _Choosing(draw))
    sites = {}
    for name, msg in messages.items():
        density = _density(msg)
        upstream = get_provenance(density) | ({name} & set(supports))
        plates = tuple(frame for frame in msg["cond_indep_stack"] if frame.vectorized)
        values = supports.get(name, torch.empty(0))
        sites[name] = Site(name, plates, tuple(u for u in supports if u in upstream), values)
        _check_batch(sites[name], msg, density)
    return sites


def run(
    program: Callable[[], Any], sites: Mapping[str, Site], values: Mapping[str, Tensor], *, how: str
) -> dict[str, Tensor]:
    """Runs a program on given values of its latent sites.

    Args:
        program: The program.
        sites: Its sites.
        values: A value, or many that broadcast, of each latent site.
        how: What the values are, for error messages.

    Returns:
        The log-density of each site, in nats, after scale and mask; of the shape that values broadcast to.

    Raises:
        ValueError: The program fails on these values, or has other sites.
    """
    choosing = _Choosing(lambda msg: values[msg["name"]])
    try:
        messages = _traced(program, choosing)
        densities = {}
        for name, msg in messages.items():
            choosing.last = name
            densities[name] = _density(msg)
    except FAILURES as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"from_pyro: the program cannot be run on {how}; the last site reached is {choosing.last!r} "
            f"({type(error).__name__}: {reason}). Control flow must not depend on sampled values, and tensors must "
            "broadcast to the left"
        ) from error
    for name in [*densities, *sites]:
        if (name in densities) != (name in sites):
            raise ValueError(
                f"from_pyro: site {name!r} is reached in some runs and not in others: control flow depends on a "
                "sampled value, which a factor graph cannot say"
            )
    return densities


class _Choosing(Messenger):
    """Gives each latent site the value that `choose(msg)` says, and remembers the last site reached."""

    def __init__(self, choose: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.choose, self.last = choose, ""

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        self.last = msg["name"]
        if not msg["is_observed"] and msg["value"] is None and not is_point(msg["fn"]):
            msg["value"] = self.choose(msg)


def _traced(program: Callable[[], Any], choosing: _Choosing) -> dict[str, Any]:
    with poutine.trace() as tracer, choosing:
        program()
    nodes = tracer.trace.nodes.items()
    return {name: msg for name, msg in nodes if _has_density(msg)}


def _has_density(msg: Any) -> bool:
    return msg["type"] == "sample" and not site_is_subsample(msg) and not msg["infer"].get("_deterministic")


def _density(msg: Any) -> Tensor:
    density = scale_and_mask(exact_log_prob(msg["fn"], msg["value"]), msg["scale"], msg["mask"])
    return density if density.is_floating_point() else density.to(torch.get_default_dtype())


def is_point(fn: Any) -> bool:
    """Says whether a distribution is a Delta, under whatever wrappers."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def _support(name: str, fn: Any) -> Tensor:
    """Gives the values of a latent site, `[K, *event]`."""
    kind = type(fn).__name__
    if not isinstance(fn, torch.distributions.Distribution):
        raise ValueError(f"from_pyro: site {name!r} draws from a {kind}, which is not a distribution")
    if not fn.has_enumerate_support:
        inner = fn
        while hasattr(inner, "base_dist") and not inner.has_enumerate_support:
            inner = inner.base_dist
        if inner.has_enumerate_support:
            raise ValueError(
                f"from_pyro: site {name!r} draws vectors of shape {list(fn.event_shape)} ({type(inner).__name__} under "
                "to_event), whose values cannot be enumerated; put its elements into a pyro.plate instead"
            )
        what = "has no finite support" if getattr(fn.support, "is_discrete", False) else "is continuous"
        raise ValueError(
            f"from_pyro: the latent site {name!r} {what} ({type(inner).__name__}), so it cannot be a variable of a "
            "factor graph; observe it, by poutine.condition for instance"
        )
    try:
        support = detach_provenance(fn.enumerate_support(expand=False))
    except NotImplementedError as error:
        raise ValueError(f"from_pyro: the values of site {name!r} ({kind}) cannot be enumerated: {error}") from error
    return support.reshape(len(support), *fn.event_shape)


def _check_batch(site: Site, msg: Any, density: Tensor) -> None:
    for frame in msg["cond_indep_stack"]:
        if frame.full_size not in (None, frame.size):
            raise ValueError(
                f"from_pyro: site {site.name!r} is in plate {frame.name!r}, which takes {frame.size} of "
                f"{frame.full_size} at random; a subsampled program is an estimate, not a joint density"
            )
    layout = (1,) * density.dim() + site.layout
    for dim in range(-density.dim(), 0):
        if density.shape[dim] not in (1, layout[dim]):
            raise ValueError(
                f"from_pyro: site {site.name!r} has a batch dimension {dim} of size {density.shape[dim]} that is in no "
                "pyro.plate; put it into one, or use to_event"
            )
