"""The cluster: the one place that starts Ray or joins it."""
