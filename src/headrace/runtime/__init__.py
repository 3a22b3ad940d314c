"""The runtime: `up`, the child processes that it supervises, and its scheduled builds."""
