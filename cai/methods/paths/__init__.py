"""What `PathConsistency` learns with: models of value and policy, residuals, and memories of rollouts."""
