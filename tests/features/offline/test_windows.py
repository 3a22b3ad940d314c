import random
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.offline.expected import (
    NOW,
    VIEW,
    assert_same,
    expect_features,
    moments,
    rows_of,
)
from tests.features.views import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    events_around,
    events_frame,
    view_of_all_functions,
    wild_amounts,
    wild_numbers,
)
from tests.features.window_oracle import round_to_double

from headrace.features.aggregates.exact import float_sums, range_sums, sum_of, total_of
from headrace.features.offline import windows
from headrace.features.offline.windows import aggregate
from headrace.features.plan import AggregateFunction, Aggregation, PlanField, WindowedView


@settings(max_examples=150, deadline=None)
@given(events=events_around(NOW), rows=st.lists(st.tuples(st.integers(1, 4), moments), max_size=8))
def test_every_aggregate_equals_its_definition(events, rows):
    features = aggregate(VIEW, rows_of(rows), events_frame(events), at="at")
    assert_same(VIEW, features, expect_features(VIEW, rows, events))


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("_MAX_KEYS", 2 * 40 * DAY),  # with so long a span of times a share holds few entities
        ("_SHARE", 3),  # rows and events
    ],
)
@settings(max_examples=40, deadline=None)
@given(events=events_around(NOW), rows=st.lists(st.tuples(st.integers(1, 4), moments), max_size=8))
def test_several_shares_of_the_entities_give_the_same_as_one(limit, value, events, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"headrace.features.offline.windows.{limit}", value)
        features = aggregate(VIEW, rows_of(rows), events_frame(events), at="at")
    assert_same(VIEW, features, expect_features(VIEW, rows, events))


def test_an_entity_with_most_events_is_a_share_of_its_own(monkeypatch):
    events = [(1, NOW - 9, 1, 0.5, "a", True), *((2, NOW - 9 + i, i, 0.1, "b", True) for i in range(8))]
    events += [(3, NOW - 2, 3, 0.25, "c", False)]
    rows = [(2, NOW), (1, NOW), (3, NOW), (None, NOW), (2, NOW - 5), (4, NOW)]
    sizes = []

    def record(share, codes, moments, events):
        sizes.append((len(share.rows), len(share.events)))
        return block_of(share, codes, moments, events)

    block_of = windows._Block
    monkeypatch.setattr(windows, "_Block", record)
    monkeypatch.setattr(windows, "_SHARE", 4)
    features = aggregate(VIEW, rows_of(rows), events_frame(events), at="at")
    assert_same(VIEW, features, expect_features(VIEW, rows, events))
    assert sorted(sizes) == [(2, 8), (4, 2)]


def test_an_event_at_exactly_t_is_not_visible():
    events = [(1, NOW, 1, 1.0, "a", True)]
    features = aggregate(VIEW, rows_of([(1, NOW), (1, NOW + 1)]), events_frame(events), at="at")
    assert features["count_number_60"].to_list() == [0, 1]


def test_a_window_begins_at_a_hop():
    t = instant_of_hour = NOW - NOW % HOUR + 7 * MINUTE + 30 * SECOND
    begin = instant_of_hour - HOUR - 150 * SECOND  # five past, one hour back
    events = [(1, begin, 1, None, None, None), (1, begin - 1, 1, None, None, None)]
    assert aggregate(VIEW, rows_of([(1, t)]), events_frame(events), at="at")["count_number_60"].to_list() == [1]


def test_many_events_against_the_definition():
    draw = random.Random(7)
    events = [
        (
            draw.randrange(6),
            NOW - draw.randrange(3 * DAY),
            draw.randrange(-9, 9),
            draw.choice([None, round(draw.lognormvariate(3, 2), 2)]),
            draw.choice("abcdefg"),
            draw.random() < 0.5,
        )
        for _ in range(3000)
    ]
    rows = [(draw.randrange(8), NOW - draw.randrange(2 * DAY)) for _ in range(60)]
    view = view_of_all_functions((HOUR, DAY))
    assert_same(
        view, aggregate(view, rows_of(rows), events_frame(events), at="at"), expect_features(view, rows, events)
    )


@dataclass
class Case:
    amounts: list[float]
    total: float


@pytest.mark.parametrize(
    "case",
    [
        Case([0.1] * 10, 1.0),
        Case([1e16, 1.0, -1e16], 1.0),
        Case([1e300, 1e-300, -1e300], 1e-300),
        Case([5e-324, 5e-324], 1e-323),
        Case([1e308, 1e308, -1e308], 1e308),
        Case([1e308, 1e308], float("inf")),
        Case([-1e308, -1e308, 5e-324], float("-inf")),
        # Exactly between two doubles, except for one value of 2^-1074.
        Case([1.0, 2.0**-53, 5e-324], 1.0 + 2.0**-52),
        Case([1.0, 2.0**-53, -5e-324], 1.0),
    ],
)
def test_sums_are_rounded_once(case):
    events = [(1, NOW - HOUR // 2 + i, None, amount, None, None) for i, amount in enumerate(case.amounts)]
    features = aggregate(VIEW, rows_of([(1, NOW)]), events_frame(events), at="at")
    assert features["sum_amount_60"].to_list() == [case.total]


@pytest.mark.parametrize("other", [1e15 + 0.3, 1e40, 1e52, 1e60, 1.7e308, 5e-324])
def test_a_sum_does_not_depend_on_other_entities(other):
    events = [(1, NOW - i - 1, None, 19.99, None, None) for i in range(3)]
    events += [(2, NOW - i - 1, None, other, None, None) for i in range(3)]
    events += [(3, NOW - i - 1, None, float(i), None, None) for i in range(1000)]
    features = aggregate(VIEW, rows_of([(1, NOW), (2, NOW), (3, NOW)]), events_frame(events), at="at")
    assert features["sum_amount_60"].to_list()[::2] == [59.97, 499_500.0]
    assert features["mean_amount_60"].to_list()[::2] == [59.97 / 3, 499.5]


@settings(max_examples=100, deadline=None)
@given(
    events=events_around(NOW, amounts=wild_amounts, numbers=wild_numbers),
    rows=st.lists(st.tuples(st.integers(1, 4), moments), max_size=8),
)
def test_values_of_every_size_equal_the_definition(events, rows):
    features = aggregate(VIEW, rows_of(rows), events_frame(events), at="at")
    assert_same(VIEW, features, expect_features(VIEW, rows, events))


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(
        st.one_of(wild_amounts, st.floats(1e-9, 1e9)).filter(lambda v: v is not None and isfinite(v))
    ),
    chunk=st.sampled_from([2, 1 << 15]),
    data=st.data(),
)
def test_range_sums_and_totals_are_the_true_sum_rounded_once(values, chunk, data):
    cut = st.integers(0, len(values))
    ranges = [sorted(pair) for pair in data.draw(st.lists(st.tuples(cut, cut), min_size=1, max_size=5))]
    low, high = (np.array(ends, dtype=np.int64) for ends in zip(*ranges, strict=True))
    truth = [round_to_double(sum(map(Fraction, values[start:end]), Fraction(0))) for start, end in ranges]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.features.aggregates.exact._CHUNK", chunk)
        assert range_sums(float_sums(np.array(values, dtype=np.float64)), low, high).tolist() == truth
    # Totals that are merged in any order and packed in between give the same.
    for (start, end), total in zip(ranges, truth, strict=True):
        shuffled = data.draw(st.permutations(values[start:end]))
        half = data.draw(st.integers(0, len(shuffled)))
        merged = total_of([*total_of(shuffled[:half]), *total_of(shuffled[half:])])
        assert merged == total_of(shuffled)
        assert sum_of(merged) == sum_of(shuffled) == total


def test_a_mean_of_whole_numbers_does_not_use_the_wrapped_sum():
    numbers = [2**63 - 1, 2**53, 2**63 - 1]
    events = [(1, NOW - i - 1, number, None, None, None) for i, number in enumerate(numbers)]
    features = aggregate(VIEW, rows_of([(1, NOW)]), events_frame(events), at="at")
    assert features["mean_number_60"].to_list() == [float(sum(numbers)) / 3]


def test_keys_of_several_columns_and_rows_without_a_key():
    aggregation = Aggregation("n", "word", AggregateFunction("count"), HOUR, 5 * MINUTE, "int64")
    view = WindowedView(
        "v", ("user", "shop"), "t", "t", None, "time", (PlanField("word", "string"),), (aggregation,)
    )
    events = pl.DataFrame(
        {"user": ["a", "a", "b", None], "shop": [1, 2, 1, 1], "word": ["x"] * 4}
    ).with_columns(time=pl.lit(NOW - 1).cast(pl.Datetime("us", "UTC")))
    rows = pl.DataFrame({"user": ["b", None, "a", "a"], "shop": [1, 1, 2, 3]}).with_columns(
        at=pl.lit(NOW).cast(pl.Datetime("us", "UTC"))
    )
    assert aggregate(view, rows, events, at="at")["n"].to_list() == [1, 0, 1, 0]


def test_no_rows_and_no_events():
    assert aggregate(VIEW, rows_of([]), events_frame([]), at="at").shape == (0, len(VIEW.aggregations))
    features = aggregate(VIEW, rows_of([(1, NOW)]), events_frame([]), at="at")
    assert features["count_number_60"].to_list() == [0]
    assert features["sum_amount_60"].to_list() == [None]
    assert features["last_n_word_60"].dtype == pl.List(pl.String)
