"""Tests of cai.inference."""
