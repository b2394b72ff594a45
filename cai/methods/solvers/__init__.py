"""How the fixed point V = B V of an infinite horizon is reached: solver objects for the methods on tables."""

from cai.methods.solvers.anderson import Anderson
from cai.methods.solvers.choice import default_solver, newton_for
from cai.methods.solvers.newton import ModifiedPolicyIteration, Newton, NewtonKrylov
from cai.methods.solvers.prioritised_sweeps import PrioritisedSweeps
from cai.methods.solvers.solver import AbstractSolver
from cai.methods.solvers.value_iteration import ValueIteration

__all__ = [
    "AbstractSolver",
    "Anderson",
    "ModifiedPolicyIteration",
    "Newton",
    "NewtonKrylov",
    "PrioritisedSweeps",
    "ValueIteration",
    "default_solver",
    "newton_for",
]
