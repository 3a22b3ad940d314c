"""The walk-forward split: each fold predicts the horizon after what it learnt from."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.declare.splits import WalkForward
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.splits import divide

START = datetime(2026, 1, 4, tzinfo=UTC)


def weekly(weeks: int, stores: int = 2) -> pl.DataFrame:
    rows = [
        (store, START + timedelta(weeks=week), float(week)) for store in range(stores) for week in range(weeks)
    ]
    return pl.DataFrame(
        rows,
        schema={"store": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC"), "sales": pl.Float64},
        orient="row",
    )


def weeks_of(part: pl.DataFrame) -> list[int]:
    return sorted({int(week) for week in part["sales"]})


def test_three_folds_of_four_weeks_of_thirty() -> None:
    parts = divide(weekly(30), WalkForward(3, horizon="28d"), "sales", by_class=False)
    windows = [[weeks_of(part) for _, part in fold.named] for fold in parts.folds]
    assert windows == [
        [list(range(14)), [14, 15, 16, 17], [18, 19, 20, 21]],
        [list(range(18)), [18, 19, 20, 21], [22, 23, 24, 25]],
        [list(range(22)), [22, 23, 24, 25], [26, 27, 28, 29]],
    ]
    assert parts.test.equals(parts.folds[-1].test)
    assert parts.boundaries["test"] <= START + timedelta(weeks=26)
    assert parts.boundaries["validation"] <= START + timedelta(weeks=22)
    assert parts.dropped == 0
    assert parts.description == "walk-forward in 3 folds of 28d"


@given(
    st.lists(st.integers(0, 2000), min_size=80, max_size=200),
    st.integers(2, 4),
    st.integers(40, 200),
    st.integers(0, 39),
)
def test_a_fold_never_learns_from_what_it_predicts(
    hours: list[int], folds: int, horizon: int, gap: int
) -> None:
    rows = pl.DataFrame(
        {"event_timestamp": [START + timedelta(hours=h) for h in hours], "sales": [float(h) for h in hours]},
        schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
    )
    split = WalkForward(folds, horizon=f"{horizon}h", gap=f"{gap}h")
    try:
        parts = divide(rows, split, "sales", by_class=False)
    except Refused:
        return
    end = max(hours)
    for number, fold in enumerate(parts.folds):
        last = end - (folds - 1 - number) * horizon  # the last hour of the fold's test window
        first = last - horizon  # the last hour before it
        middle = first - horizon
        # Hours are whole, and a window ends just after its last row: these are the rows by the definition.
        assert sorted(fold.test["sales"]) == sorted(h for h in hours if first < h <= last)
        assert sorted(fold.validation["sales"]) == sorted(h for h in hours if middle < h <= first - gap)
        assert sorted(fold.train["sales"]) == sorted(h for h in hours if h <= middle - gap)
    assert parts.dropped == len(hours) - sum(len(part) for _, part in parts)


def test_too_short_a_history_is_refused() -> None:
    with pytest.raises(Refused, match=r"train part of fold 1 of 3 is empty: .* the windows take 4 times 28d"):
        divide(weekly(16), WalkForward(3, horizon="28d"), "sales", by_class=False)
    with pytest.raises(Refused, match="no labelled rows"):
        divide(weekly(16).clear(), WalkForward(3, horizon="28d"), "sales", by_class=False)
    rows = weekly(30).with_columns(sales=pl.when(pl.col("sales") > 20).then(1).otherwise(0))
    with pytest.raises(Refused, match="the train part of fold 1 of 3 has only one class: sales is always 0"):
        divide(rows, WalkForward(3, horizon="28d"), "sales")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1, "horizon": "28d"}, "folds=1 must be 2 or more"),
        ({"horizon": "0d"}, "must be positive"),
        ({"horizon": "28d", "gap": "28d"}, "less than the horizon"),
        ({"horizon": "four weeks"}, "not a valid duration"),
    ],
)
def test_a_declaration_that_is_not_valid_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        WalkForward(**options)
