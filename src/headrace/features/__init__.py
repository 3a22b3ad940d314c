"""Features: the plan of a model's features, and everything that computes them from it."""
