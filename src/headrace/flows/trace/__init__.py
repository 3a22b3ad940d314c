"""The verbs that lead back: why, parity."""
