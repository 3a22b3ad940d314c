"""MLflow models that others trained: served as they are, each by a process of the Python that it needs."""
