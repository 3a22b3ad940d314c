"""Feature values: as columns, from JSON, to and from an on-demand function, and in a model's matrix."""
