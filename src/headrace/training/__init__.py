"""Training: training set, split, tuning, evaluation, gate."""
