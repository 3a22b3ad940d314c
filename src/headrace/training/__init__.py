"""Training: training set, split, tuning, fit, evaluation, gate.

`job.train` does all of it for one model. Every connection to Ray is made by `cluster.connect`.
"""
