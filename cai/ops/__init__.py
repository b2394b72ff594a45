"""Pure tensor functions: log-space kernels, transition operators, messages along a chain, fixed points.

Nothing here knows a graph, a method or a file; everything takes and returns tensors, or frozen dataclasses of tensors.
"""

from cai.ops.logspace import log_expectation, logsumexp, max_over_support, safe_log
from cai.ops.messages import Messages, backward_messages, forward_marginals
from cai.ops.readings import FixedDynamics, MostProbable, PosteriorDynamics
from cai.ops.sampling import sample_index
from cai.ops.sparse import Pattern, csr_product
from cai.ops.sparse_transitions import SparseTransitions, sparse_from_triplets
from cai.ops.tables import StepTables, Tables
from cai.ops.transitions import DenseTransitions, Transitions

__all__ = [
    "DenseTransitions",
    "FixedDynamics",
    "Messages",
    "MostProbable",
    "Pattern",
    "PosteriorDynamics",
    "SparseTransitions",
    "StepTables",
    "Tables",
    "Transitions",
    "backward_messages",
    "csr_product",
    "forward_marginals",
    "log_expectation",
    "logsumexp",
    "max_over_support",
    "safe_log",
    "sample_index",
    "sparse_from_triplets",
]
