"""The frame of `headrace demo NAME`. An example's own steps lie in its demo.py."""
