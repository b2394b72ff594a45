"""Tests of cai.ops."""
