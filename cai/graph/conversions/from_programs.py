"""A Pyro program with discrete sites as a factor graph: one variable a latent site, one factor a site.

    log p(x) = sum_f log f(x_f),     f a site: its log-density as a table over the latent sites that it depends on

The program is run on all values at once: each latent site takes its support along a tensor dimension, and the density
of site f then is its table. Sites that stand in no density together may share a dimension: torch has 64, and a chain of
any length needs three. Pyro's own enumeration shares dimensions where `pyro.markov` says so; here a first run says it,
in which every density tells the sites that it depends on.

Then the program is run on single values, drawn uniformly: every site must have the density that its table says. A
program whose course depends on a sampled value, or which mixes the indices of a plate, shows here if not before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.graph.conversions.sites import Site, aside, explored, run
from cai.graph.factor_graph import Factor, FactorGraph, Variable
from cai.graph.unrolling import MAX_ENTRIES

#: A joint table of up to this many entries could be held whole; then each site has a dimension of its own, as in Pyro.
_WHOLE_TABLE = 2**20
#: The most dimensions that a tensor has in torch.
_MAX_DIMS = 64
#: How many assignments the tables are checked at.
_NUM_CHECKS = 10


def from_pyro(model: Callable[..., Any], *args: Any, **kwargs: Any) -> FactorGraph:
    """Makes a factor graph of a Pyro program whose latent sites are discrete.

    Each latent site becomes a variable of its name; its value i stands for the i-th value of the site's
    `enumerate_support()`. In plates there is one variable an index: `z[0]`, `z[1,2]`, the outer plate first. Each site,
    latent, observed or `pyro.factor`, becomes a factor of its name: its log-density after `poutine.scale`, `mask` and
    `condition`. So `log_density` is the joint log-density of the program. Tables keep the program's dtype, and its
    gradients with respect to parameters; a probability given as zero is `-inf`, where Pyro would clamp it.

    Sites need not be marked for enumeration, and `pyro.markov` is not needed. The global generator and parameter store
    are left as they were: a `pyro.param` that is to be learned must be in the store before.

    Args:
        model: The program; it is called some ten times.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        The graph. It has no evidence: what the program observes is in its factors.

    Raises:
        ValueError: A site that cannot be converted, by name: a latent one that is continuous or without finite
            support, one in a subsampled plate or in a batch without a plate, one that depends on too many others or
            mixes the indices of a plate; or control flow that depends on a sampled value.
    """
    if not callable(model):
        raise ValueError(f"from_pyro: expected a Pyro program, a callable, got {type(model).__name__}")

    def program() -> Any:
        return model(*args, **kwargs)

    with aside():
        sites = explored(program)
        latents = {name: site for name, site in sites.items() if site.is_latent}
        dims = _dims(sites, latents)
        everywhere = {name: _along(site, dims[name]) for name, site in latents.items()}
        densities = run(program, sites, everywhere, how="all values at once")
        tables = {name: _table(site, densities[name], latents, dims) for name, site in sites.items()}
        for _ in range(_NUM_CHECKS):
            picked = {name: torch.randint(site.size, site.layout) for name, site in latents.items()}
            somewhere = {name: site.values[picked[name]] for name, site in latents.items()}
            densities = run(program, sites, somewhere, how="single values")
            for name, table in tables.items():
                table.compare(densities[name], picked)
    variables = [Variable(site.name_at(place), site.size) for site in latents.values() for place in site.places()]
    factors = [table.factor(place, latents) for table in tables.values() for place in table.site.places()]
    return FactorGraph(tuple(variables), tuple(factors))


@dataclass(frozen=True, eq=False)
class _Table:
    """The log-density of a site.

    Attributes:
        site: The site.
        upstream: The latent sites that it depends on.
        values: `[*plates, *values]`: the site's layout, then one dimension for each name in `upstream`.
    """

    site: Site
    upstream: tuple[str, ...]
    values: Tensor

    def factor(self, place: Mapping[str, int], latents: Mapping[str, Site]) -> Factor:
        """Gives the factor of one index of the plates."""
        at = {frame.dim: place[frame.name] for frame in self.site.plates}
        index = tuple(at.get(dim, 0) for dim in range(-len(self.site.layout), 0))
        names = tuple(latents[name].name_at(place) for name in self.upstream)
        return Factor(names, self.values[index], self.site.name_at(place))

    def compare(self, density: Tensor, picked: Mapping[str, Tensor]) -> None:
        """Raises ValueError unless the table says what the program says at one assignment."""
        layout = self.site.layout
        grid = torch.as_tensor(np.indices(layout))
        expected = self.values[*grid, *(picked[name].expand(layout) for name in self.upstream)].detach()
        try:
            found = density.detach().reshape(density.shape[max(density.dim() - len(layout), 0) :]).expand(layout)
        except RuntimeError:
            raise ValueError(_lost(self.site)) from None
        slack = torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().clamp(min=1.0)
        if not ((found == expected) | ((found - expected).abs() <= slack)).all():
            raise ValueError(_lost(self.site))


def _dims(sites: Mapping[str, Site], latents: Mapping[str, Site]) -> dict[str, int]:
    """Gives each latent site a batch dimension left of all plates, its own among those it stands in a density with."""
    for site in sites.values():
        _check_upstream(site, latents)
    nesting = max((len(site.layout) for site in sites.values()), default=0)
    whole = math.prod(site.size for site in latents.values()) <= _WHOLE_TABLE
    groups = [tuple(latents)] if whole else [site.upstream for site in sites.values()]
    beside: dict[str, set[str]] = {name: set() for name in latents}
    for group in groups:
        counted = [name for name in group if latents[name].size > 1]  # one value needs no dimension
        for name in counted:
            beside[name].update(counted)
    dims: dict[str, int] = {}
    for name in latents:
        taken = {dims[other] for other in beside[name] if other in dims}
        dims[name] = next(dim for dim in itertools.count(-1 - nesting, -1) if dim not in taken)
    num_dims = max((-dims[name] + site.values.dim() - 1 for name, site in latents.items()), default=0)
    if num_dims > _MAX_DIMS:
        raise ValueError(
            f"from_pyro: the sites of this program need {num_dims} tensor dimensions at once, torch has {_MAX_DIMS}"
        )
    return dims


def _check_upstream(site: Site, latents: Mapping[str, Site]) -> None:
    plates = {frame.name for frame in site.plates}
    for name in site.upstream:
        beyond = sorted({frame.name for frame in latents[name].plates} - plates)
        if beyond:
            raise ValueError(
                f"from_pyro: site {site.name!r} is outside plate {beyond[0]!r} and depends on site {name!r} inside it, "
                "on all indices at once; write the plate as a loop, `for i in pyro.plate(...)`"
            )
    entries = math.prod(latents[name].size for name in site.upstream) * math.prod(site.layout)
    if entries > MAX_ENTRIES:
        raise ValueError(
            f"from_pyro: site {site.name!r} depends on {len(site.upstream)} latent sites at once; its table would hold "
            f"{entries:.3g} entries, the limit is {MAX_ENTRIES:,}"
        )


def _along(site: Site, dim: int) -> Tensor:
    """Lays the support of a latent site along a batch dimension: `[K, 1, ..., 1, *event]`."""
    return site.values.reshape(site.size, *[1] * (-dim - 1), *site.values.shape[1:])


def _table(site: Site, density: Tensor, latents: Mapping[str, Site], dims: Mapping[str, int]) -> _Table:
    """Reads a site's table off its density on all values at once."""
    wide = density.reshape((1,) * (_MAX_DIMS - density.dim()) + density.shape)
    upstream = [u for u in site.upstream if u == site.name or (latents[u].size > 1 and wide.shape[dims[u]] > 1)]
    spread = [u for u in upstream if latents[u].size > 1]
    kept = [*range(-len(site.layout), 0), *(dims[u] for u in spread)]
    rest = [dim for dim in range(-_MAX_DIMS, 0) if dim not in kept]
    if any(wide.shape[dim] > 1 for dim in rest):
        raise ValueError(_lost(site))
    sizes = (*site.layout, *(latents[u].size for u in spread))
    values = wide.permute(*rest, *kept).reshape([wide.shape[dim] for dim in kept]).expand(sizes)
    return _Table(site, tuple(upstream), values if len(upstream) == len(spread) else values[..., None])


def _lost(site: Site) -> str:
    return (
        f"from_pyro: site {site.name!r} has another density on single values than on all at once; it depends on "
        "sampled values through something other than broadcast tensor operations: control flow, numpy, random numbers "
        "of its own, or single indices of a vectorised plate (write that as a loop, `for i in pyro.plate(...)`)"
    )
