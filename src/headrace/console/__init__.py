"""The console: pages over the flows."""
