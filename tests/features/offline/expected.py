"""The features of a view of every aggregate, from the definition of each."""

from __future__ import annotations

import polars as pl
from hypothesis import strategies as st
from tests.features.views import (
    DAY,
    HOUR,
    MINUTE,
    WINDOWS,
    exact,
    instant,
    value_of,
    view_of_all_functions,
)
from tests.features.window_oracle import expect_value

from headrace.features.plan import LIFETIME

__all__ = ["NOW", "VIEW", "assert_same", "expect_features", "moments", "plain", "rows_of"]

NOW = 1_760_000_000_000_000 + 17 * MINUTE + 123_457


VIEW = view_of_all_functions(WINDOWS)


def rows_of(rows):
    return pl.DataFrame(
        {"user_id": [user for user, _ in rows], "at": [instant(at) for _, at in rows]},
        schema={"user_id": pl.Int64, "at": pl.Datetime("us", "UTC")},
    )


def expect_features(view, rows, events):
    columns = {}
    for aggregation in view.aggregations:
        values = [
            expect_value(
                aggregation.function.name,
                aggregation.function.n,
                None if aggregation.window == LIFETIME else aggregation.window,
                aggregation.hop,
                t,
                [(e[1], value_of(e, aggregation.column)) for e in events if e[0] == user],
                aggregation.offset,
            )
            for user, t in rows
        ]
        if aggregation.dtype == "bool":
            values = [None if value is None else bool(value) for value in values]
        columns[aggregation.name] = values
    return columns


def assert_same(view, features, expected):
    for aggregation in view.aggregations:
        got = features[aggregation.name].to_list()
        assert list(map(exact, got)) == [exact(plain(v)) for v in expected[aggregation.name]], aggregation


def plain(value):
    """-0.0 is 0.0."""
    if isinstance(value, list):
        return [plain(aggregation) for aggregation in value]
    return value + 0.0 if isinstance(value, float) else value


moments = st.one_of(
    st.integers(NOW - 2 * DAY, NOW), st.sampled_from([NOW, NOW - NOW % HOUR, NOW - NOW % DAY, NOW - 15 * DAY])
)
