"""Tests of `SoftQLearning` on finite actions."""
