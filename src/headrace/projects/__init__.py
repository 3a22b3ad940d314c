"""The project: its git commit, the loader of its package, its declarations, and its running `up`."""
