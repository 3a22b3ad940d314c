"""Online: the current feature values, by entity."""
