"""Graphs to and from other formats: Pyro programs and the UAI text format."""

from cai.graph.conversions.from_programs import from_pyro
from cai.graph.conversions.to_pyro import factor_graph_program, pyro_program
from cai.graph.conversions.uai import evidence_text, parse_uai, read_text, uai_text

__all__ = ["evidence_text", "factor_graph_program", "from_pyro", "parse_uai", "pyro_program", "read_text", "uai_text"]
