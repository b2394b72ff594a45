"""Running policies: in tables and callables, all episodes at once, and in gymnasium environments."""

from cai.simulate.episodes import rollout
from cai.simulate.worlds import AbstractWorld, Episode, Step, world_of

__all__ = ["AbstractWorld", "Episode", "Step", "rollout", "world_of"]
