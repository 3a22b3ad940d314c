"""Twenty aggregates over 10 million events at a million moments, against plain numpy.

Both read the events, unsorted, from a snapshot of an Iceberg table. The peer is written by hand: one sort,
prefix sums of floats, searchsorted; only counts, sums and means. Ours also has minima, maxima and last values,
and sums that are rounded once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from headrace.config.settings import make_settings
from headrace.features.aggregates import parse_function, result_dtype
from headrace.features.offline.windows import aggregate
from headrace.features.plan import Aggregation, Dtype, PlanField, WindowedView, hop_of
from headrace.lake import LakeTable
from headrace.lake import open as open_lake

DAY = 86_400_000_000
START = 1_700_000_000_000_000
COLUMNS: dict[str, Dtype] = {"price": "float64", "viewed": "int64", "bought": "int64"}
WINDOWS = [timedelta(hours=1), timedelta(hours=6), timedelta(days=1), timedelta(days=7)]
FUNCTIONS = [("price", "sum"), ("price", "max"), ("viewed", "count"), ("bought", "count"), ("price", "last")]


def make_view(functions: list[tuple[str, str]]) -> WindowedView:
    """A windowed view of these functions of columns over four windows."""
    aggregations = []
    for window in WINDOWS:
        for column, name in functions:
            function = parse_function(name)
            micros, hop = (d // timedelta(microseconds=1) for d in (window, hop_of(window)))
            aggregations.append(
                Aggregation(
                    f"{name}_{column}_{micros}",
                    column,
                    function,
                    micros,
                    hop,
                    result_dtype(function, COLUMNS[column]),
                )
            )
    fields = tuple(PlanField(name, dtype) for name, dtype in COLUMNS.items())
    return WindowedView("v", ("user",), "events", "events", None, "time", fields, tuple(aggregations))


def generate(events: int, rows: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Unsorted events of a month, and moments in its last three quarters."""
    draw = np.random.default_rng(7)
    instant = pl.Datetime("us", "UTC")
    viewed = pl.Series(draw.integers(0, 10_000, events))
    table = pl.DataFrame(
        {
            "user": draw.integers(0, 200_000, events),
            "time": START + draw.integers(0, 30 * DAY, events),
            "price": draw.lognormal(3, 1, events).round(2),
            "viewed": viewed.set(pl.Series(draw.random(events) < 0.3), None),
            "bought": viewed.set(pl.Series(draw.random(events) < 0.95), None),
        }
    ).with_columns(pl.col("time").cast(instant))
    moments = pl.DataFrame(
        {"user": draw.integers(0, 200_000, rows), "at": START + draw.integers(8 * DAY, 30 * DAY, rows)}
    ).with_columns(pl.col("at").cast(instant))
    return table, moments


def aggregate_by_hand(table: pl.DataFrame, moments: pl.DataFrame) -> int:
    """The peer: twenty counts, sums and means by prefix sums."""
    key = table["user"].to_numpy() * (1 << 42) + (table["time"].cast(pl.Int64).to_numpy() - START)
    order = np.argsort(key)
    key = key[order]
    user = moments["user"].to_numpy() * (1 << 42)
    at = moments["at"].cast(pl.Int64).to_numpy()
    high = np.searchsorted(key, user + (at - START))
    sums = {}
    for name in COLUMNS:
        values = table[name].fill_null(0).to_numpy()[order]
        sums[name] = np.concatenate([[0], np.cumsum(values)]), np.concatenate([[0], np.cumsum(values != 0)])
    results = 0
    for window in WINDOWS:
        length, hop = (d // timedelta(microseconds=1) for d in (window, hop_of(window)))
        low = np.searchsorted(key, user + np.maximum((at - length) // hop * hop - START, 0))
        for column, kind in [("price", 0), ("price", 1), ("viewed", 1), ("bought", 1), ("viewed", 0)]:
            results += len(sums[column][kind][high] - sums[column][kind][low])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object a line (always the case)")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--functions", nargs="+", help="functions of the price instead, such as std percentile(95) top_k(3)"
    )
    options = parser.parse_args()
    functions = [("price", name) for name in options.functions or []] or FUNCTIONS
    with tempfile.TemporaryDirectory() as folder:
        table, moments = generate(options.events, options.rows)
        lake = open_lake(make_settings(Path(folder), "windows"))
        for begin in range(0, len(table), 1_000_000):
            rows = table[begin : begin + 1_000_000].to_arrow()
            lake.ensure("events", rows.schema).append(rows)
        compare(options, functions, lake.table("events"), moments)


def compare(
    options: argparse.Namespace, functions: list[tuple[str, str]], table: LakeTable, moments: pl.DataFrame
) -> None:
    """Prints the seconds and the seconds of CPU of both, each the best of three in turn."""
    view = make_view(functions)
    features = aggregate(view, moments, table.scan(), at="at")
    assert features.shape == (options.rows, 4 * len(functions))
    both = [lambda: aggregate(view, moments, table.scan(), at="at")]
    if not options.functions:  # the peer computes none of them
        check_sums(features, table.scan().collect(), moments)
        both.append(lambda: aggregate_by_hand(table.scan().collect(), moments))
    rounds = [[measure(side) for side in both] for _ in range(3)]
    for index, unit in enumerate(("s", "s of CPU")):
        ours, *peer = (min(figures[index] for figures in side) for side in zip(*rounds, strict=True))
        work = f"windows: {options.events:,} events, {options.rows:,} rows, {4 * len(functions)} aggregates"
        result = {"work": work, "ours": ours, "unit": unit}
        print(json.dumps(result | ({"peer": peer[0], "ratio": ours / peer[0]} if peer else {})))


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """The seconds and the seconds of CPU of a call."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - cpu


def check_sums(features: pl.DataFrame, table: pl.DataFrame, moments: pl.DataFrame) -> None:
    """Some rows' values over the longest window, from the definition alone."""
    longest, hop = WINDOWS[-1], hop_of(WINDOWS[-1])
    micros = longest // timedelta(microseconds=1)
    for index in range(0, len(moments), max(len(moments) // 20, 1)):
        user, at = moments.row(index)
        start = at.timestamp() - longest.total_seconds()
        start = datetime.fromtimestamp(start // hop.total_seconds() * hop.total_seconds(), UTC)
        inside = table.filter(pl.col("user") == user, pl.col("time").is_between(start, at, closed="left")).sort(
            "time"
        )
        row = features.row(index, named=True)
        assert row[f"count_viewed_{micros}"] == inside["viewed"].count()
        assert abs((row[f"sum_price_{micros}"] or 0) - inside["price"].sum()) < 1e-6
        assert row[f"last_price_{micros}"] == (inside["price"][-1] if len(inside) else None)


if __name__ == "__main__":
    main()
