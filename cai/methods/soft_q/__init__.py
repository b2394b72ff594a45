"""What `SoftQLearning` can learn: tables, networks over finitely many actions, and heads for boxes."""
