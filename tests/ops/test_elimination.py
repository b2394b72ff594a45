"""Orders of elimination and junction trees: cheap where a cheap order is known, valid always."""

from __future__ import annotations

import itertools
import random

import networkx
import pytest

from cai.ops.elimination import JunctionTree, cost_of_order, elimination_order, junction_tree

Scopes = list[tuple[int, ...]]


def partial_k_tree(num: int, k: int, seed: int) -> Scopes:
    """Pairs of a random graph of treewidth at most k, names shuffled, three in ten edges left out."""
    rng = random.Random(seed)
    names = rng.sample(range(num), num)
    cliques = [list(range(k + 1))]
    edges = set(itertools.combinations(range(k + 1), 2))
    for node in range(k + 1, num):
        near = rng.sample(rng.choice(cliques), k)
        edges |= {(other, node) for other in near}
        cliques.append([*near, node])
    return [(names[a], names[b]) for a, b in sorted(edges) if rng.random() > 0.3]


def grid(rows: int, columns: int) -> Scopes:
    pairs = networkx.grid_2d_graph(rows, columns).edges
    return [(columns * a[0] + a[1], columns * b[0] + b[1]) for a, b in pairs]


def chain(num: int, rng: random.Random) -> Scopes:
    names = rng.sample(range(num), num)
    return list(itertools.pairwise(names))


def sizes_of(num: int, size: int = 2) -> dict[int, int]:
    return dict.fromkeys(range(num), size)


@pytest.mark.parametrize("num, k", [(60, 3), (200, 8), (400, 10)])
@pytest.mark.parametrize("seed", range(3))
def test_graphs_of_small_treewidth_are_found_to_be_narrow(num: int, k: int, seed: int) -> None:
    tree = junction_tree(partial_k_tree(num, k, seed), sizes_of(num))
    assert tree.width <= 1.5 * k
    assert tree.num_entries <= num * 2 ** (1.5 * k + 1)


@pytest.mark.parametrize("rows, columns", [(3, 40), (6, 12), (16, 16)])
def test_grids_cost_no_more_than_row_by_row(rows: int, columns: int) -> None:
    sizes = sizes_of(rows * columns)
    order = elimination_order(grid(rows, columns), sizes)
    assert cost_of_order(grid(rows, columns), sizes, order) <= rows * columns * 2.0 ** (min(rows, columns) + 1)


def test_chains_and_trees_cost_what_reading_them_does() -> None:
    rng = random.Random(0)
    for scopes in (chain(300, rng), [(rng.randrange(node), node) for node in range(1, 300)]):
        tree = junction_tree(scopes, sizes_of(300, 5))
        assert tree.width == 1
        assert tree.num_entries == 299 * 25


def test_cardinalities_are_weighed() -> None:
    """A wheel: eliminating the large hub first would tie eight rim variables, last it makes triples with the hub."""
    rim = [(i, (i + 1) % 8) for i in range(8)]
    spokes = [(i, 8) for i in range(8)]
    light_hub = junction_tree(rim + spokes, sizes_of(8, 9) | {8: 2})
    assert light_hub.largest == 9**3 * 2
    heavy_rim = junction_tree([(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)], {0: 2, 1: 50, 2: 50, 3: 50, 4: 2})
    assert heavy_rim.largest == 2 * 2 * 50, "the two light variables go last"


def valid(tree: JunctionTree, scopes: Scopes, sizes: dict[int, int]) -> None:
    """Every factor in one clique that holds it, every variable eliminated once, and running intersection."""
    owners = [variable for clique in tree.cliques for variable in clique.own]
    assert sorted(owners) == sorted(sizes)
    placed = [index for clique in tree.cliques for index in clique.factors]
    assert sorted([*placed, *tree.constants]) == list(range(len(scopes)))
    for index, clique in enumerate(tree.cliques):
        assert clique.shape == tuple(sizes[variable] for variable in clique.variables)
        assert all(set(scopes[factor]) <= set(clique.variables) for factor in clique.factors)
        if clique.parent is None:
            assert not clique.separator
        else:
            assert clique.parent > index
            assert set(clique.separator) <= set(tree.cliques[clique.parent].variables)
    for variable in sizes:
        holding = [i for i, clique in enumerate(tree.cliques) if variable in clique.variables]
        tops = [i for i in holding if variable in tree.cliques[i].own]
        assert len(tops) == 1
        for index in holding:  # the way up to the clique that eliminates it never leaves those that hold it
            while index != tops[0]:
                index = tree.cliques[index].parent
                assert index in holding


@pytest.mark.parametrize("seed", range(200))
def test_junction_trees_are_valid(seed: int) -> None:
    rng = random.Random(seed)
    num = rng.randint(1, 9)
    sizes = {variable: rng.randint(1, 4) for variable in range(num)}
    scopes = [tuple(rng.sample(range(num), rng.randint(0, min(4, num)))) for _ in range(rng.randint(0, 12))]
    tree = junction_tree(scopes, sizes)
    valid(tree, scopes, sizes)
    for first, second in itertools.pairwise(tree.cliques):
        assert not set(first.variables) <= set(second.variables) or first.parent != tree.cliques.index(second), (
            "no clique lies inside its parent"
        )


def test_the_same_order_each_time_and_the_global_generator_is_left_alone() -> None:
    scopes, sizes = grid(14, 14), sizes_of(196)
    random.seed(7)
    before = random.getstate()
    first = elimination_order(scopes, sizes)
    assert random.getstate() == before
    random.seed(8)
    assert elimination_order(scopes, sizes) == first


def test_holding_finds_the_smallest_clique() -> None:
    tree = junction_tree([(0, 1, 2), (2, 3), (4,)], {0: 2, 1: 2, 2: 2, 3: 2, 4: 3})
    assert tree.cliques[tree.holding([2])].variables in ((2, 3), (3, 2))
    assert tree.holding([0, 3]) is None
    assert tree.holding([]) is None
    assert tree.cliques[tree.holding([4])].num_entries == 3
