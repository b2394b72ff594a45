"""Planning again and again: methods of inference at work inside a world."""

from cai.plan.choices import mean_action, sampled_action
from cai.plan.replanning import Replanner, ReplanningPolicy, WarmStartable

__all__ = ["Replanner", "ReplanningPolicy", "WarmStartable", "mean_action", "sampled_action"]
