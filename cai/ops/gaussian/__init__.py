"""Linear-quadratic problems with Gaussian noise: messages by loops, scans and doubling, gradients, and filters."""
