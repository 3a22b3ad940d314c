"""Baselines: seasonal naive by its definition."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.declare.baselines import SeasonalNaive
from headrace.kernel.errors import ProjectError
from headrace.training.baselines import predict_baseline

START = datetime(2026, 1, 4, tzinfo=UTC)
ROW = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 40), st.floats(-100, 100))


def frame(rows: list[tuple[int, int, int, float]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(store, dept, START + timedelta(days=day), sales) for store, dept, day, sales in rows],
        schema={
            "store": pl.Int64,
            "dept": pl.Int64,
            "event_timestamp": pl.Datetime("us", "UTC"),
            "sales": pl.Float64,
        },
        orient="row",
    )


@given(st.lists(ROW, min_size=2, max_size=60), st.integers(1, 14), st.integers(1, 39))
def test_a_row_is_predicted_by_the_same_entity_a_season_earlier(
    rows: list[tuple[int, int, int, float]], season: int, begin: int
) -> None:
    known = [row for row in rows if row[2] < begin]
    part = [row for row in rows if row[2] >= begin]
    if not known or not part:
        return
    expected = []
    start = min(row[2] for row in part)
    for store, dept, day, _ in part:
        earlier = day - season
        while earlier >= start:
            earlier -= season
        own = [row[3] for row in known if row[:2] == (store, dept)]
        seasonal = [row[3] for row in known if row[:3] == (store, dept, earlier)]
        expected.append(np.mean(seasonal or own or [row[3] for row in known]))
    outputs = predict_baseline(
        SeasonalNaive(f"{season}d"), frame(known), frame(part), "sales", ["store", "dept"]
    )
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-9)


def test_the_targets_of_the_part_are_not_read() -> None:
    known, part = (
        frame([(1, 1, day, float(day)) for day in range(14)]),
        frame([(1, 1, 14, 9.0), (1, 1, 21, 9.0)]),
    )
    unknown = part.with_columns(sales=pl.lit(None, pl.Float64))
    for rows in (part, unknown):
        assert predict_baseline(SeasonalNaive("7d"), known, rows, "sales", ["store", "dept"]).tolist() == [
            7.0,
            7.0,
        ]


def test_a_season_is_a_positive_duration() -> None:
    with pytest.raises(ProjectError, match="must be positive"):
        SeasonalNaive("0d")
