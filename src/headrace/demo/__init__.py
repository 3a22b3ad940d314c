"""The frame of `headrace demo NAME`. The steps of an example are in its demo.py."""
