"""Policy evaluation from samples: estimators, what holds the values, and what samples."""
