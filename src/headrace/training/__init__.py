"""Training: training set, split, tuning, fit, evaluation, gate.

`job.train` does all of it for one model. `cluster.connect` is the one way to Ray.
"""
