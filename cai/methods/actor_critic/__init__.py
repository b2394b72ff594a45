"""What `SoftActorCritic` learns with: actors on boxes and finite actions, critics, a tuned temperature."""
