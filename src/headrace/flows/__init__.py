"""The verbs that cross rooms: build, up, why, status, doctor, demo."""
