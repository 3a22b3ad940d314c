"""The verbs of models: predict, release, rollback; and how to find a logged prediction."""
