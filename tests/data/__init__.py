"""Tests of cai.data."""
