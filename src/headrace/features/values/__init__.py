"""Feature values: in columns, in JSON, in on-demand functions, and in a model's matrix."""
