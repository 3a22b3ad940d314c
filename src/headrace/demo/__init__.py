"""The frame of `headrace demo`: steps, seconds and checks."""
