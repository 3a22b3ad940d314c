"""Offline: computes features at many moments at once, from tables."""
