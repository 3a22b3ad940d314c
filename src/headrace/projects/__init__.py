"""The project: its checkout, the loader of its package, and what it declares."""
