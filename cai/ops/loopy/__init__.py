"""Loopy belief propagation on tensors: factors of one shape side by side, all messages of a sweep at once."""

from cai.ops.loopy.decoding import decoded
from cai.ops.loopy.factor_groups import FactorGroups, group_factors
from cai.ops.loopy.kernel import Change, LoopyKernel, Messages

__all__ = ["Change", "FactorGroups", "LoopyKernel", "Messages", "decoded", "group_factors"]
