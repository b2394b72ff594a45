"""Infinite horizons: fixed points and gains, the steps towards them, what they prove, and the linear systems inside."""
