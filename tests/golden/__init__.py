"""Tests of cai."""
