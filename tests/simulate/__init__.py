"""Tests of cai.simulate."""
