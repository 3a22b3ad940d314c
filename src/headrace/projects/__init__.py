"""The project: its git checkout, the loader of its package, what it declares, and its running `up`."""
