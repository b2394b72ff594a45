"""Tests of cai.factors."""
