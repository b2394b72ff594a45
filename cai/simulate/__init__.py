"""Running policies: in tables and callables, all episodes at once, and in gymnasium environments."""

from cai.simulate.episodes import rollout

__all__ = ["rollout"]
