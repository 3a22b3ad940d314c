"""The commands on models: predict, release, rollback; and the search for a logged prediction."""
