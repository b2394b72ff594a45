"""The way to the exits in the graph of possible transitions: the first guess at a policy in a large world.

Breadth first from the terminal states, against the transitions, each state learns one neighbour that is nearer to an
exit; the policy takes the action most likely to get there. Under it every state reaches an exit if any policy makes it.

Source: Bertsekas and Tsitsiklis (1991), proper policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from torch import Tensor

from cai.ops.sparse_transitions import SparseTransitions


@dataclass(frozen=True, eq=False)
class Ways:
    """Shortest ways to the exits.

    Attributes:
        policy: `[S, A]`, probabilities: one for the action most likely to get to the next state of the way; where no
            exit can be reached, the policy given.
        rank: `[S]`, the place of each state in the search: small near the exits, and S + 1 where there is no way.
    """

    policy: Tensor
    rank: np.ndarray


def ways_to(transitions: SparseTransitions, exits: Tensor, otherwise: Tensor) -> Ways:
    """Finds the ways of the fewest steps to the exits.

    Args:
        transitions: p(s'|s,a), sparse, with `S` states.
        exits: `[S]`, bool.
        otherwise: `[S, A]`, the policy of states from which no exit can be reached; actions of probability zero are
            not available.
    """
    following, rank = _search(transitions, exits, otherwise)
    nearer = torch.as_tensor(following, device=exits.device)
    gets_there = transitions.pattern.columns == transitions.at_source(nearer[:, None].expand(otherwise.shape))
    likely = transitions.over_next(torch.where(gets_there, transitions.values.detach(), 0.0))
    action = torch.where(otherwise > 0, likely, -1.0).argmax(-1)
    chosen = torch.nn.functional.one_hot(action, otherwise.shape[-1]).to(otherwise.dtype)
    return Ways(torch.where((nearer >= 0)[:, None], chosen, otherwise), rank)


def _search(transitions: SparseTransitions, exits: Tensor, available: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For each state the next one on a way, -1 at exits and where there is none, and its rank: `[S]` each."""
    size = transitions.num_states
    edges = transitions.state_matrix((available > 0).to(transitions.values.dtype)).T.tocsr()
    ends = np.flatnonzero(exits.cpu().numpy()).astype(edges.indices.dtype)
    # One more node, from which the search sets out to all exits at once.
    indices = np.concatenate([edges.indices, ends])
    starts = np.append(edges.indptr, len(indices)).astype(edges.indptr.dtype)
    weights = np.concatenate([edges.data, np.ones(len(ends))])
    graph = scipy.sparse.csr_matrix((weights, indices, starts), shape=(size + 1, size + 1))
    graph.eliminate_zeros()
    found, before = scipy.sparse.csgraph.breadth_first_order(graph, size, return_predecessors=True)
    rank = np.full(size + 1, size + 1.0)
    rank[found] = np.arange(len(found))
    before = before[:size]
    return np.where((before >= 0) & (before < size), before, -1), rank[:size]
