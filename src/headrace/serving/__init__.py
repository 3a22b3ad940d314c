"""Serving: protocol, replica, release, prediction log."""
