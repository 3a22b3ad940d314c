"""Aggregate functions: each with what it computes offline over ranges, and online from tiles."""

from headrace.features.aggregates.functions import FUNCTIONS, parse_function, result_dtype

__all__ = ["FUNCTIONS", "parse_function", "result_dtype"]
