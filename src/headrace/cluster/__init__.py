"""The cluster: the only place that starts Ray or connects to it."""
