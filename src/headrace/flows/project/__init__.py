"""The verbs of a whole project: init, status, doctor, clean, maintain."""
