"""Pure tensor functions: log-space kernels, messages along chains and on any graph, fixed points, returns of samples.

Nothing here knows a graph, a method or a file; everything takes and returns tensors, or frozen dataclasses of tensors.
"""

from cai.ops.elimination import JunctionTree, junction_tree
from cai.ops.importance import (
    effective_sample_size,
    importance_sampled_soft_value,
    normalised_weights,
    per_decision_advantages,
    per_decision_returns,
    per_decision_weights,
    v_trace_returns,
)
from cai.ops.logspace import log_expectation, logsumexp, max_over_support, safe_log
from cai.ops.messages import Messages, backward_messages, forward_marginals
from cai.ops.natural_gradient import (
    LinearSolution,
    assign_flat,
    conjugate_gradients,
    fisher_product,
    flat_gradient,
    trust_region_scale,
)
from cai.ops.optimisation import flushed_denormals, frozen, fused_adam, polyak
from cai.ops.path_consistency import path_residuals
from cai.ops.readings import FixedDynamics, MostProbable, PosteriorDynamics, RiskSensitive
from cai.ops.returns import (
    discounted_returns,
    episode_returns,
    generalised_advantages,
    n_step_returns,
    steps_in_episode,
    td_lambda_returns,
)
from cai.ops.sampling import sample_index
from cai.ops.scans.matrix_products import log_matmul, max_plus_matmul
from cai.ops.scans.scan import associative_scan
from cai.ops.semirings import LogSemiring, TropicalSemiring
from cai.ops.soft_values import soft_log_policy, soft_value
from cai.ops.sparse import Pattern, csr_product
from cai.ops.sparse_building import sparse_from_triplets
from cai.ops.sparse_transitions import SparseTransitions
from cai.ops.squashing import inverse_tanh, log_tanh_slope
from cai.ops.stein import median_bandwidth, stein_direction
from cai.ops.tables import StepTables, Tables
from cai.ops.transitions import DenseTransitions, Transitions
from cai.ops.tree_messages import Collected, collect

__all__ = [
    "Collected",
    "DenseTransitions",
    "FixedDynamics",
    "JunctionTree",
    "LinearSolution",
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
    "assign_flat",
    "associative_scan",
    "backward_messages",
    "collect",
    "conjugate_gradients",
    "csr_product",
    "discounted_returns",
    "effective_sample_size",
    "episode_returns",
    "fisher_product",
    "flat_gradient",
    "flushed_denormals",
    "forward_marginals",
    "frozen",
    "fused_adam",
    "generalised_advantages",
    "importance_sampled_soft_value",
    "inverse_tanh",
    "junction_tree",
    "log_expectation",
    "log_matmul",
    "log_tanh_slope",
    "logsumexp",
    "max_over_support",
    "max_plus_matmul",
    "median_bandwidth",
    "n_step_returns",
    "normalised_weights",
    "path_residuals",
    "per_decision_advantages",
    "per_decision_returns",
    "per_decision_weights",
    "polyak",
    "safe_log",
    "sample_index",
    "soft_log_policy",
    "soft_value",
    "sparse_from_triplets",
    "stein_direction",
    "steps_in_episode",
    "td_lambda_returns",
    "trust_region_scale",
    "v_trace_returns",
]
