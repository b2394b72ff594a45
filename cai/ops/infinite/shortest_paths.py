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


@dataclass(frozen=True, eq=False)
class Search:
    """A search against the moves of a graph, breadth first.

    Attributes:
        following: `[S]`, the next state on a shortest way to an end; -1 at ends and where there is no way.
        rank: `[S]`, the place of each state in the search: small near the ends, and S + 1 where there is no way.
    """

    following: np.ndarray
    rank: np.ndarray

    @property
    def reached(self) -> np.ndarray:
        """The ends, and the states from which one can be reached: `[S]`, bool."""
        return self.rank <= len(self.rank)


def ways_to(transitions: SparseTransitions, exits: Tensor, otherwise: Tensor) -> Ways:
    """Finds the ways of the fewest steps to the exits.

    Args:
        transitions: p(s'|s,a), sparse, with `S` states.
        exits: `[S]`, bool.
        otherwise: `[S, A]`, the policy of states from which no exit can be reached; actions of probability zero are
            not available.
    """
    available = (otherwise > 0).to(transitions.values.dtype)
    search = search_from(exits, transitions.state_matrix(available))
    nearer = torch.as_tensor(search.following, device=exits.device)
    gets_there = transitions.pattern.columns == transitions.at_source(nearer[:, None].expand(otherwise.shape))
    likely = transitions.over_next(torch.where(gets_there, transitions.values.detach(), 0.0))
    action = torch.where(otherwise > 0, likely, -1.0).argmax(-1)
    chosen = torch.nn.functional.one_hot(action, otherwise.shape[-1]).to(otherwise.dtype)
    return Ways(torch.where((nearer >= 0)[:, None], chosen, otherwise), search.rank)


def search_from(ends: Tensor, moves: scipy.sparse.csr_matrix) -> Search:
    """Searches the ways to the ends.

    Args:
        ends: `[S]`, bool.
        moves: `[S, S]`, above zero where a state can be left for another.
    """
    size, edges = moves.shape[0], moves.T.tocsr()
    first = np.flatnonzero(ends.cpu().numpy()).astype(edges.indices.dtype)
    # One more node, from which the search sets out to all ends at once.
    indices = np.concatenate([edges.indices, first])
    starts = np.append(edges.indptr, len(indices)).astype(edges.indptr.dtype)
    weights = np.concatenate([edges.data, np.ones(len(first))])
    graph = scipy.sparse.csr_matrix((weights, indices, starts), shape=(size + 1, size + 1))
    graph.eliminate_zeros()
    found, before = scipy.sparse.csgraph.breadth_first_order(graph, size, return_predecessors=True)
    rank = np.full(size + 1, size + 1.0)
    rank[found] = np.arange(len(found))
    before = before[:size]
    return Search(np.where((before >= 0) & (before < size), before, -1), rank[:size])
