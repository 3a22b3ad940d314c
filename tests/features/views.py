"""Views and event streams for the tests of features."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
from hypothesis import strategies as st

from headrace.features.aggregates import result_dtype
from headrace.features.plan import LIFETIME, AggregateFunction, Aggregation, PlanField, WindowedView, hop_of

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

COLUMNS = (
    PlanField("number", "int64"),
    PlanField("amount", "float64"),
    PlanField("word", "string"),
    PlanField("flag", "bool"),
    PlanField("moment", "timestamp"),
    PlanField("day", "timestamp"),
    PlanField("paid", "float64"),
)
"""The last three are an instant, a date and a decimal, which follow from the number."""
FUNCTIONS = [
    AggregateFunction(name)
    for name in (
        "count",
        "count_if",
        "sum",
        "mean",
        "var",
        "std",
        "min",
        "max",
        "count_distinct",
        "first",
        "last",
    )
] + [
    AggregateFunction("first_n", 2),
    AggregateFunction("last_n", 3),
    AggregateFunction("top_k", 2),
    AggregateFunction("percentile", 50),
    AggregateFunction("percentile", 95),
    AggregateFunction("approx_count_distinct"),
]
_NUMBERS = ("int64", "float64", "bool")
_ACCEPTED = {
    "count_if": ("bool",),
    "sum": _NUMBERS,
    "mean": _NUMBERS,
    "var": _NUMBERS,
    "std": _NUMBERS,
    "percentile": _NUMBERS,
}


WINDOWS = (5 * MINUTE, HOUR, DAY, 15 * DAY, (HOUR, 5 * MINUTE), (7 * DAY, 3 * HOUR + 1), LIFETIME)
"""Lengths of windows, some with an offset."""


def view_of_all_functions(windows=WINDOWS, *, name="activity", keys=("user_id",)):
    """A view with every function over every column that it accepts, for each window.

    Windows with an offset, lifetimes, and columns that follow from others are in fewer combinations, because
    their functions are the same.
    """
    aggregations = []
    for window in windows:
        window, offset = window if isinstance(window, tuple) else (window, 0)
        if window == LIFETIME:
            hop = LIFETIME
        else:
            hop = hop_of(timedelta(microseconds=window)) // timedelta(microseconds=1)
        for column in COLUMNS:
            for function in FUNCTIONS:
                if (offset or window == LIFETIME) and column.name not in ("amount", "flag"):
                    continue
                if column.name in DERIVED and window != 15 * DAY:
                    continue
                if column.dtype not in _ACCEPTED.get(function.name, (column.dtype,)):
                    continue
                aggregations.append(
                    Aggregation(
                        f"{_label(function)}_{column.name}_{_name_of(window, offset)}",
                        column.name,
                        function,
                        window,
                        hop,
                        result_dtype(function, column.dtype),
                        offset,
                    )
                )
    used = {aggregation.column for aggregation in aggregations}
    columns = tuple(column for column in COLUMNS if column.name in used)
    return WindowedView(name, tuple(keys), "clicks", "clicks", None, "time", columns, tuple(aggregations))


def _label(function):
    return f"percentile_{function.n}" if function.name == "percentile" else function.name


def _name_of(window, offset):
    if window == LIFETIME:
        return "lifetime"
    return f"{window // MINUTE}_{offset // MINUTE}_before" if offset else str(window // MINUTE)


DERIVED = {
    "moment": lambda number: instant(number % 10**15),
    "day": lambda number: (instant(0) + timedelta(days=number % 40_000 - 20_000)).date(),
    "paid": lambda number: Decimal(number % 10**9 - 5 * 10**8).scaleb(-2),
}
"""Column → its value for a number."""


def value_of(event, column):
    """What an aggregate counts of a column: of a date its midnight, of a decimal the nearest float."""
    if column not in DERIVED:
        return event[{"number": 2, "amount": 3, "word": 4, "flag": 5}[column]]
    value = None if event[2] is None else DERIVED[column](event[2])
    if isinstance(value, Decimal):
        return float(value)
    is_date = isinstance(value, date) and not isinstance(value, datetime)
    return datetime(value.year, value.month, value.day, tzinfo=UTC) if is_date else value


def exact(value):
    """A value as text: 0.1 + 0.2 is not 0.3, -0.0 is not 0.0, and 1 is not True. Instants are in UTC."""
    if isinstance(value, list):
        return [exact(item) for item in value]
    return repr(value.astimezone(UTC)) if isinstance(value, datetime) else repr(value)


def instant(micros):
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def events_frame(events):
    """Events (user_id, time, number, amount, word, flag) as a table of the view."""
    return pl.DataFrame(
        {
            "user_id": [e[0] for e in events],
            "time": [e[1] for e in events],
            "number": [e[2] for e in events],
            "amount": [e[3] for e in events],
            "word": [e[4] for e in events],
            "flag": [e[5] for e in events],
            **{
                name: [None if e[2] is None else derive(e[2]) for e in events]
                for name, derive in DERIVED.items()
            },
        },
        schema={
            "user_id": pl.Int64,
            "time": pl.Int64,
            "number": pl.Int64,
            "amount": pl.Float64,
            "word": pl.String,
            "flag": pl.Boolean,
            "moment": pl.Datetime("us", "UTC"),
            "day": pl.Date,
            "paid": pl.Decimal(12, 2),
        },
    ).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))


amounts = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 0.1, 35.12, -7.77, 1e-9, 1e12, float("nan"), float("inf")]),
    st.integers(-100_000, 100_000).map(lambda cents: cents / 100),
)

numbers = st.one_of(st.none(), st.integers(-5, 5))
wild_amounts = st.one_of(
    st.sampled_from(
        [None, 19.99, 0.1, -0.0, 1e52, -1e52, 1.7e308, -1.7e308, 9e307, 5e-324, -2.2e-308, 1e16, 1.0]
    ),
    st.floats(),
)
wild_numbers = st.one_of(
    st.sampled_from([None, 2**63 - 1, -(2**63), 2**53, 2**53 + 1, -1]), st.integers(-(2**63), 2**63 - 1)
)


def events_around(now, *, users=3, size=40, amounts=amounts, numbers=numbers):
    """Random events about `now`: equal times, at hop edges, late, in the future, with nulls."""
    edge = now - now % HOUR
    times = st.one_of(
        st.integers(now - 20 * DAY, now + 10 * MINUTE),
        st.integers(now - 2 * HOUR, now + 5 * MINUTE),
        st.sampled_from([now, now - 1, now + 1, edge, edge - 1, edge - HOUR, edge - DAY, edge - 15 * DAY]),
        st.integers(0, 30).map(lambda steps: now - steps * 5 * MINUTE - now % (5 * MINUTE)),
    )
    event = st.tuples(
        st.integers(1, users),
        times,
        numbers,
        amounts,
        st.one_of(st.none(), st.sampled_from(["", "a", "b", "é", "z"])),
        st.one_of(st.none(), st.booleans()),
    )
    return st.lists(event, max_size=size)
