"""Recorders, the store of runs, OpenLineage, the graph."""
