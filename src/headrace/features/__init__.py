"""Features: the plan of a model's features, and everything that computes features by it."""
