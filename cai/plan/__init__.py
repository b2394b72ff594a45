"""Planning again and again: methods of inference at work inside a world."""

from cai.plan.belief_policy import BeliefPolicy, BeliefTracker
from cai.plan.choices import mean_action, sampled_action
from cai.plan.replanning import Replanner, ReplanningPolicy, WarmStartable

__all__ = [
    "BeliefPolicy",
    "BeliefTracker",
    "Replanner",
    "ReplanningPolicy",
    "WarmStartable",
    "mean_action",
    "sampled_action",
]
