"""The split by time: shares, gaps, classes, and what is refused."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.declare.splits import ByTime
from headrace.kernel.errors import Refused
from headrace.training.splits import divide

START = datetime(2026, 1, 1, tzinfo=UTC)


def labels(minutes: list[int], target: list[int] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "event_timestamp": [START + timedelta(minutes=m) for m in minutes],
            "bought": target or [n % 2 for n in range(len(minutes))],
        },
        schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
    )


def test_parts_have_the_wanted_shares_with_gaps_between_them() -> None:
    rows = labels(list(range(1000)))
    parts = divide(rows, ByTime(validation=0.2, test=0.1, gap="30m"), "bought")
    assert (len(parts.train), len(parts.validation), len(parts.test), parts.dropped) == (670, 170, 100, 60)
    assert parts.boundaries["validation"] == START + timedelta(minutes=700)
    assert parts.boundaries["test"] == START + timedelta(minutes=900)


@given(st.lists(st.integers(0, 5000), min_size=50, max_size=300), st.integers(0, 90))
def test_no_row_lies_within_the_gap_before_a_later_part(minutes: list[int], gap: int) -> None:
    rows = labels(minutes).sample(fraction=1, shuffle=True, seed=1)
    try:
        parts = divide(rows, ByTime(0.2, 0.2, gap=f"{gap}m"), "bought")
    except Refused:
        return  # too few moments for three parts
    for earlier, later in ((parts.train, parts.validation), (parts.validation, parts.test)):
        assert earlier["event_timestamp"].max() + timedelta(minutes=gap) < later["event_timestamp"].min()
    assert sum(len(part) for _, part in parts) + parts.dropped == len(rows)


def test_rows_without_a_valid_division_are_refused() -> None:
    split = ByTime(0.2, 0.2, gap="10m")
    with pytest.raises(Refused, match=r"train part .* would be empty with a gap of 10m"):
        divide(labels([5] * 100), split, "bought")
    with pytest.raises(Refused, match=r"train part .* only one class: bought is always 0"):
        divide(labels(list(range(100)), [0] * 90 + [0, 1] * 5), split, "bought")
    with pytest.raises(Refused) as error:
        divide(labels([5] * 100), ByTime(), "bought")
    assert error.value.remedy is not None
    assert "they need different times" in error.value.remedy
    with pytest.raises(Refused, match="2 labelled rows"):
        divide(labels([1, 2]), split, "bought")


def test_boundaries_move_to_where_every_part_has_both_classes() -> None:
    # Nothing is bought in the middle half: with the wanted shares no part but the first two had both.
    target = [1 if n < 200 and n % 10 == 0 else 0 for n in range(1000)]
    target[990] = 1
    parts = divide(labels(list(range(1000)), target), ByTime(0.15, 0.15, gap="5m"), "bought")
    assert all(part["bought"].n_unique() == 2 for _, part in parts)
    assert sum(len(part) for _, part in parts) + parts.dropped == 1000
    assert parts.dropped == 10
    assert parts.boundaries["validation"] < START + timedelta(minutes=191)


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), min_size=3, max_size=60), st.integers(0, 60))
def test_every_part_has_both_classes_or_the_rows_are_refused(drawn: list[tuple[int, bool]], gap: int) -> None:
    rows = labels([m for m, _ in drawn], [int(b) for _, b in drawn])
    try:
        parts = divide(rows, ByTime(0.2, 0.2, gap=f"{gap}m"), "bought")
    except Refused:
        return
    assert all(part["bought"].n_unique() == 2 for _, part in parts)
    for earlier, later in ((parts.train, parts.validation), (parts.validation, parts.test)):
        assert earlier["event_timestamp"].max() + timedelta(minutes=gap) < later["event_timestamp"].min() or (
            gap == 0 and earlier["event_timestamp"].max() < later["event_timestamp"].min()
        )


def test_a_number_as_target_needs_no_classes() -> None:
    rows = labels(list(range(100)), [7] * 100)
    parts = divide(rows, ByTime(0.2, 0.2), "bought", by_class=False)
    assert [len(part) for _, part in parts] == [60, 20, 20]
    with pytest.raises(Refused, match="would be empty"):
        divide(labels([5] * 100), ByTime(), "bought", by_class=False)


def test_the_train_part_has_every_class_and_the_others_two() -> None:
    # The third class comes late: the boundary moves behind its first row.
    target = [n % 2 for n in range(70)] + [2] + [n % 2 for n in range(29)]
    parts = divide(labels(list(range(100)), target), ByTime(0.2, 0.2), "bought")
    assert parts.train["bought"].n_unique() == 3
    assert parts.boundaries["validation"] > START + timedelta(minutes=70)
    with pytest.raises(Refused, match="has 2 of the 3 classes of bought"):
        divide(labels(list(range(100)), [n % 2 for n in range(99)] + [2]), ByTime(0.2, 0.2), "bought")
