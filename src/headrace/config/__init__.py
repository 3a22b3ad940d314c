"""headrace.toml and the environment, as one typed Settings, with one file for the settings of each part."""
