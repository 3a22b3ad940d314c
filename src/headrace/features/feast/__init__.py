"""Feast's plugins: the only room that imports Feast."""
