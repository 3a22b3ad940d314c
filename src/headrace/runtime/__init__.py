"""The runtime: `up`, and the processes that it keeps alive."""
