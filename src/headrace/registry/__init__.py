"""MLflow: versions, aliases, signed bundles."""
