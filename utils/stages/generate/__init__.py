"""Draw samples from a model."""
