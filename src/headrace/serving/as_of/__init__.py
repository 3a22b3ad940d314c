"""Answers as of a past moment: with the features as they were known then."""
