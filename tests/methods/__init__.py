"""Tests of cai.methods."""
