"""What `CrossEntropyPolicySearch` is made of: stacked policies, and what their episodes are worth."""
