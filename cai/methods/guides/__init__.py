"""Variational families for `SVI`: policies in the true dynamics, independent variables, any Pyro guide."""

from cai.methods.guides.family import AbstractFamily, AbstractGuide, Effort
from cai.methods.guides.fixed_dynamics import FixedDynamicsGuide
from cai.methods.guides.mean_field import MeanFieldGuide
from cai.methods.guides.program import ProgramGuide, is_autoguide

__all__ = [
    "AbstractFamily",
    "AbstractGuide",
    "Effort",
    "FixedDynamicsGuide",
    "MeanFieldGuide",
    "ProgramGuide",
    "is_autoguide",
]
