"""headrace.toml and the environment, as one typed Settings."""
