"""Trajectories of nonlinear models: derivatives along them, local backward passes, rollouts, iterative LQR."""
