"""Windows hold only the events that were known before the moment."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.offline.expected import NOW, VIEW, assert_same, expect_features, moments, rows_of
from tests.features.views import DAY, HOUR, MINUTE, events_around, events_frame, instant

from headrace.features.offline.windows import aggregate

lateness = st.one_of(st.sampled_from([None, 0, 1, -HOUR]), st.integers(0, 3 * HOUR), st.integers(0, 20 * DAY))


def frame_with_known(events, delays):
    known = [None if delay is None else instant(e[1] + delay) for e, delay in zip(events, delays, strict=True)]
    column = pl.Series("known", known, dtype=pl.Datetime("us", "UTC"))
    return events_frame(events).with_columns(column)


def expect_known_features(rows, events, delays):
    """Each row's features from the events known before it; an event without an instant is known at once."""
    columns = {}
    for row in rows:
        visible = [e for e, delay in zip(events, delays, strict=True) if delay is None or e[1] + delay < row[1]]
        for name, values in expect_features(VIEW, [row], visible).items():
            columns.setdefault(name, []).extend(values)
    return columns


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_hold_what_was_known_before_the_moment(data):
    events = data.draw(events_around(NOW))
    delays = data.draw(st.lists(lateness, min_size=len(events), max_size=len(events)))
    rows = data.draw(st.lists(st.tuples(st.integers(1, 4), moments), min_size=1, max_size=8))
    features = aggregate(VIEW, rows_of(rows), frame_with_known(events, delays), at="at", known_at="known")
    assert_same(VIEW, features, expect_known_features(rows, events, delays))


def test_pairs_are_expanded_in_chunks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("headrace.features.offline.known._PAIRS", 7)
    events = [(1, NOW - minute * MINUTE, minute, 1.5, "a", True) for minute in range(1, 30)]
    delays = [HOUR] * len(events)
    rows = [(1, NOW + minute * MINUTE) for minute in range(-20, 40, 7)] + [(2, NOW)]
    features = aggregate(VIEW, rows_of(rows), frame_with_known(events, delays), at="at", known_at="known")
    assert_same(VIEW, features, expect_known_features(rows, events, delays))


offsets = st.integers(0, 12)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), pairs=st.sampled_from([1, 4_000_000]))
def test_windows_hold_what_was_before_the_positions_of_the_log_partitions(data, pairs):
    events = data.draw(events_around(NOW))
    place = st.tuples(st.sampled_from([0, 7]), offsets)
    places = data.draw(st.lists(place, min_size=len(events), max_size=len(events)))
    row = st.tuples(st.integers(1, 4), moments, offsets, offsets)
    rows = data.draw(st.lists(row, min_size=1, max_size=8))
    expected = {}
    for user, at, *ends in rows:
        before = dict(zip([0, 7], ends, strict=True))
        visible = [e for e, (part, offset) in zip(events, places, strict=True) if offset < before[part]]
        for name, values in expect_features(VIEW, [(user, at)], visible).items():
            expected.setdefault(name, []).extend(values)
    frame = events_frame(events).with_columns(
        _log_partition=pl.Series([partition for partition, _ in places], dtype=pl.Int32),
        _log_offset=pl.Series([offset for _, offset in places], dtype=pl.Int64),
    )
    limited = rows_of([(user, at) for user, at, *_ in rows]).with_columns(
        first=pl.Series([r[2] for r in rows]), second=pl.Series([r[3] for r in rows])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.features.offline.known._PAIRS", pairs)
        features = aggregate(VIEW, limited, frame, at="at", ends={0: "first", 7: "second"})
    assert_same(VIEW, features, expected)
