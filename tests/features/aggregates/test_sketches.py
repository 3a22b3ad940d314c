import random
from fractions import Fraction
from math import ceil

import numpy as np
import polars as pl
import pytest

from headrace.features.aggregates import SortedColumn, aggregate_of
from headrace.features.aggregates.log_buckets import bucket_of, buckets_of, middles_of
from headrace.features.aggregates.ranges import expand_in_chunks
from headrace.features.plan import AggregateFunction

DRAW = random.Random(11)


def compute(function, values, n=0):
    """The result over all values, offline, and online from tiles that were merged in a random order."""
    column = SortedColumn(pl.Series(values), np.arange(len(values)), len(values))
    aggregate, ends = aggregate_of(AggregateFunction(function, n)), np.array([len(values)])
    dtype = {float: "float64", int: "int64", str: "string"}[type(values[0])]
    (offline,) = aggregate.compute_ranges(column, np.array([0]), ends).to_list()
    parts = aggregate.tile_parts(dtype)
    shuffled = DRAW.sample(values, len(values))
    pieces = [shuffled[i::7] for i in range(7)]
    track = [[0]]
    for part in parts:
        tile = part.make([0] * len(pieces[0]), pieces[0])
        for piece in pieces[1:6]:
            tile = part.merge(part.make([0] * len(piece), piece), tile)
        track.append([tile])
    read = aggregate.tile_reader({part.name: i for i, part in enumerate(parts, 1)}, dtype)
    assert read(track, [0] * len(pieces[6]), pieces[6]) == offline
    return offline


@pytest.mark.parametrize("count", [1, 100, 3_000, 12_000, 100_000])
@pytest.mark.parametrize("kind", [str, int])
def test_an_approximate_count_of_distinct_values_is_within_its_error(kind, count):
    values = [kind(value) for value in range(count)]
    assert abs(compute("approx_count_distinct", values) / count - 1) < 3 * 1.04 / 64


@pytest.mark.parametrize("n", [1, 50, 90, 99])
@pytest.mark.parametrize("factor", [1.0, -1e-200, 1e300])
def test_a_percentile_is_within_its_error_of_the_value_at_its_rank(n, factor):
    values = [DRAW.lognormvariate(3, 2) * factor for _ in range(5_000)]
    expected = sorted(values)[ceil(Fraction(n, 100) * len(values)) - 1]
    assert abs(compute("percentile", values, n) / expected - 1) <= 1 / 128


def test_buckets_are_in_the_order_of_the_numbers():
    numbers = sorted([0.0, 5e-324, 1.7e308, *(DRAW.lognormvariate(0, 200) for _ in range(2_000))])
    numbers = [-number for number in reversed(numbers)] + numbers
    buckets = [bucket_of(number) for number in numbers]
    assert buckets == sorted(buckets) == buckets_of(np.array(numbers)).tolist()
    assert np.isfinite(middles_of(np.array(buckets))).all()


def test_the_most_frequent_values_are_exact():
    values = [DRAW.choice("abcdefghij") for _ in range(2_000)]
    expected = sorted(set(values), key=lambda value: (-values.count(value), value))
    assert compute("top_k", values, 3) == expected[:3]


def test_ranges_are_expanded_in_chunks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("headrace.features.aggregates.ranges._EXPANDED", 10)
    low = np.array([0, 0, 3, 5, 5, 5])
    high = np.array([4, 5, 3, 25, 11, 9])
    assert list(expand_in_chunks(low, high)) == [(0, 3), (3, 4), (4, 6)]
    column = SortedColumn(pl.Series([value % 4 for value in range(30)]), np.arange(30), 30)
    for function in (AggregateFunction("top_k", 4), AggregateFunction("approx_count_distinct")):
        results = aggregate_of(function).compute_ranges(column, low, high).to_list()
        counts = [result if isinstance(result, int) else len(result or []) for result in results]
        assert counts == [4, 4, 0, 4, 4, 4]
