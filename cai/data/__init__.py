"""Data: trajectories, transitions, replay, spaces, and how things are written to files."""

from cai.data.replay import PrioritisedReplayBuffer, ReplayBuffer
from cai.data.spaces import GridSpace
from cai.data.trajectories import Trajectories
from cai.data.transitions import Transitions

__all__ = ["GridSpace", "PrioritisedReplayBuffer", "ReplayBuffer", "Trajectories", "Transitions"]
