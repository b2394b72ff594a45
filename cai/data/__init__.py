"""Data: trajectories, spaces, and how things are written to files."""

from cai.data.spaces import GridSpace
from cai.data.trajectories import Trajectories

__all__ = ["GridSpace", "Trajectories"]
