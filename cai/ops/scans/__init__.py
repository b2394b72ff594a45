"""Scans over time: recursions along a finite horizon as products of matrices, taken in any grouping."""
