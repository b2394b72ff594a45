"""Tests of PolicyGradient."""
