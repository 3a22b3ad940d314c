"""Contracts: the fields of a topic's events, the shape they decode to, and the changes that are allowed."""
