"""What methods that learn from samples share: the loop of acting and learning, and the options that they take."""
