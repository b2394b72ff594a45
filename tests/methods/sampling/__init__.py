"""Tests of what methods that learn from samples share."""
