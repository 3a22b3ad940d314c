"""headrace.toml and the environment, as one typed Settings; the settings of each room in a file of its own."""
