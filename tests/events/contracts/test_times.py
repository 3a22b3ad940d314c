"""Parsing a column of times agrees with parsing each value, which defines the result."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.events.contracts.times import EARLIEST, LATEST, parse_time, parse_times
from headrace.kernel.time import micros

FORMATS = (
    "rfc3339",
    "epoch_ms",
    "%Y-%m-%d %H:%M:%S UTC",
    "%Y-%m-%d %H:%M:%S",
    "%d/%m/%Y %H.%M.%S GMT",
    "%Y-%m-%dT%H:%M:%S%z",
)

LIKE_TIMES = st.from_regex(
    r"[0-9]{1,4}[-/][0-9]{1,2}[-/][0-9]{1,4}[T ][0-9]{1,2}[:.][0-9]{1,2}[:.][0-9]{1,2}"
    r"(\.[0-9]{1,7})?( UTC| GMT|Z|\+01:00|)",
    fullmatch=True,
)
ODD_NUMBERS = st.sampled_from([10**50, Decimal("1e300"), Decimal("1e-300"), Decimal("1e999999999999999999")])
TRUE_TIMES = st.datetimes().flatmap(
    lambda at: st.sampled_from(
        [
            at.isoformat() + "Z",
            *(at.strftime(pattern).rjust(19, "0") for pattern in FORMATS[2:5]),
            at.isoformat(),
        ]
    )
)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(LIKE_TIMES | TRUE_TIMES | st.text(max_size=25) | st.none(), max_size=6),
    st.lists(
        st.integers()
        | st.floats()
        | st.booleans()
        | st.datetimes()
        | st.decimals(allow_nan=False)
        | ODD_NUMBERS,
        max_size=2,
    ),
    st.sampled_from([None, "Europe/Paris", "America/New_York"]),
)
def test_a_column_is_parsed_as_each_of_its_values(
    texts: list[Any], others: list[Any], zone: str | None
) -> None:
    parsed = parse_times([*texts, *others], FORMATS, zone)
    for at, text in enumerate([*texts, *others]):
        assert bool(parsed.null[at]) == (text is None)
        if text is not None:
            expected = parse_time(text, FORMATS, zone)
            assert parsed.errors.get(at, int(parsed.micros[at])) == expected, text


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("2026-03-01 12:00:00 UTC", "%Y-%m-%d %H:%M:%S UTC"),
        ("2026-03-01T12:00:00Z", "rfc3339"),
        ("2026-03-01T12:00:00+0000", "%Y-%m-%dT%H:%M:%S%z"),
        ("01.03.26 12:00 Z", "%d.%m.%y %H:%M Z"),
    ],
)
def test_a_time_is_parsed_by_each_kind_of_format(text: str, format: str) -> None:
    assert parse_time(text, (format,)) == micros(datetime(2026, 3, 1, 12, tzinfo=UTC))


@pytest.mark.parametrize(
    "value",
    [
        "0000-01-01T00:00:00Z",
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
        "0000-06-01 12:00:00 UTC",
        "0001-01-01T00:00:00+0100",
        -62_135_596_800_001,
        253_402_300_800_000,
        "253402300800000",
        253_402_300_800_000.0,
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12))),
    ],
)
def test_an_instant_that_cannot_be_stored_is_an_error(value: Any) -> None:
    for values in ([value], [value, "2026-03-01T12:00:00Z"], [value, None, 0]):
        parsed = parse_times(values, FORMATS)
        assert list(parsed.errors) == [0]
        assert parsed.micros[0] == 0
    assert parse_time(value, FORMATS) == parsed.errors[0]
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert parse_times([first, last], FORMATS).micros.tolist() == [EARLIEST, LATEST]


@pytest.mark.parametrize("number", [Decimal("253370764800123.457"), "253370764800123.457"])
def test_a_number_is_an_instant_to_the_microsecond(number: Decimal | str) -> None:
    assert parse_time(number, ("epoch_ms",)) == micros(datetime(9999, 1, 1, 0, 0, 0, 123_457, UTC))


def test_a_format_without_a_zone_is_naive() -> None:
    assert parse_time("2026-03-01 12:00:00", ("%Y-%m-%d %H:%M:%S",))[0] == "naive_time"  # type: ignore[index]
    assert parse_times(["2026-03-01 12:00:00"], ("%Y-%m-%d %H:%M:%S",)).errors[0][0] == "naive_time"
