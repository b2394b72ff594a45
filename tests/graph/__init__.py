"""Tests of cai.graph."""
