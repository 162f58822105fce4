"""What stages read: models, samples, and the check that these do not change during a run."""
