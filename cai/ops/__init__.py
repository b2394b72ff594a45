"""Pure tensor functions: log-space kernels, transition operators, messages along chains and on any graph, fixed points.

Nothing here knows a graph, a method or a file; everything takes and returns tensors, or frozen dataclasses of tensors.
"""

from cai.ops.elimination import JunctionTree, junction_tree
from cai.ops.logspace import log_expectation, logsumexp, max_over_support, safe_log
from cai.ops.messages import Messages, backward_messages, forward_marginals
from cai.ops.readings import FixedDynamics, MostProbable, PosteriorDynamics, RiskSensitive
from cai.ops.sampling import sample_index
from cai.ops.scans.matrix_products import log_matmul, max_plus_matmul
from cai.ops.scans.scan import associative_scan
from cai.ops.semirings import LogSemiring, TropicalSemiring
from cai.ops.sparse import Pattern, csr_product
from cai.ops.sparse_building import sparse_from_triplets
from cai.ops.sparse_transitions import SparseTransitions
from cai.ops.tables import StepTables, Tables
from cai.ops.transitions import DenseTransitions, Transitions
from cai.ops.tree_messages import Collected, collect

__all__ = [
    "Collected",
    "DenseTransitions",
    "FixedDynamics",
    "JunctionTree",
    "LogSemiring",
    "Messages",
    "MostProbable",
    "Pattern",
    "PosteriorDynamics",
    "RiskSensitive",
    "SparseTransitions",
    "StepTables",
    "Tables",
    "Transitions",
    "TropicalSemiring",
    "associative_scan",
    "backward_messages",
    "collect",
    "csr_product",
    "forward_marginals",
    "junction_tree",
    "log_expectation",
    "log_matmul",
    "logsumexp",
    "max_over_support",
    "max_plus_matmul",
    "safe_log",
    "sample_index",
    "sparse_from_triplets",
]
