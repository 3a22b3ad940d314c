"""The runtime: `up`, the child processes that it supervises, and what it runs on a schedule."""
