"""Drawings of graphs: one slice of time, and whole factor graphs, laid out so that a person can read them."""

from cai.graph.drawing.figures import draw_factor_graph, draw_slice

__all__ = ["draw_factor_graph", "draw_slice"]
