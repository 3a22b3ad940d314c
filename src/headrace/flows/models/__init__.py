"""The verbs of models: predict, release."""
