"""Instants and durations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kernel.time import format_duration, from_micros, micros, now, now_micros, parse_duration


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.timezones()))
def test_micros_are_exact(instant: datetime) -> None:
    assert from_micros(micros(instant)) == instant.astimezone(UTC)


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        micros(datetime(2026, 1, 1))


def test_now_is_utc_in_micros() -> None:
    before = now_micros()
    assert now().tzinfo is UTC
    assert micros(now()) >= before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", timedelta(minutes=30)),
        ("1d", timedelta(days=1)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("250ms", timedelta(milliseconds=250)),
        ("2w", timedelta(days=14)),
        ("0s", timedelta(0)),
    ],
)
def test_durations_are_read(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected
    assert parse_duration(expected) == expected


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "1x", "1d!", "-1d", "1.5h"])
def test_other_text_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid duration"):
        parse_duration(text)


@pytest.mark.parametrize("value", [7, 7.0, None, b"7d"])
def test_a_value_of_another_type_is_refused_with_the_way_to_write_it(value: Any) -> None:
    with pytest.raises(ValueError, match='is not a valid duration: write a text such as "7d"'):
        parse_duration(value)


def test_a_duration_has_a_largest_value() -> None:
    with pytest.raises(ValueError, match="is too long for a duration"):
        parse_duration("9999999999w")


@given(st.integers(0, 10**12).map(lambda n: timedelta(milliseconds=n)))
def test_a_duration_written_is_read_back(value: timedelta) -> None:
    assert parse_duration(format_duration(value)) == value
