"""The random splits: shares by class, groups that stay together, and places that do not change."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.declare.splits import ByGroup, Stratified
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.splits import divide
from headrace.training.splits.port import Parts

START = datetime(2026, 1, 1, tzinfo=UTC)


def labels(target: list[object], keys: list[object] | None = None) -> pl.DataFrame:
    """Rows of one moment: no split by time could divide them."""
    return pl.DataFrame(
        {
            "customer": keys or list(range(len(target))),
            "event_timestamp": [START] * len(target),
            "churned": target,
        },
        schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
    )


def places(parts: Parts) -> dict[object, str]:
    return {key: name for name, part in parts for key in part["customer"]}


@given(
    st.lists(st.integers(3, 60), min_size=1, max_size=4),
    st.sampled_from([(0.15, 0.15), (0.2, 0.1), (0.05, 0.4)]),
    st.integers(0, 5),
)
def test_every_part_has_its_share_of_every_class(
    sizes: list[int], shares: tuple[float, float], seed: int
) -> None:
    target = [label for label, size in enumerate(sizes) for _ in range(size)]
    rows = labels(target)
    parts = divide(rows, Stratified(seed, validation=shares[0], test=shares[1]), "churned", keys=["customer"])
    assert sorted(key for _, part in parts for key in part["customer"]) == list(range(len(target)))
    for label, size in enumerate(sizes):
        counts = {name: Counter(part["churned"].to_list())[label] for name, part in parts}
        assert abs(counts["validation"] - size * shares[0]) <= 1
        assert abs(counts["test"] - size * shares[1]) <= 1
        assert min(counts.values()) >= 1


def test_a_division_follows_from_seed_and_keys_alone() -> None:
    rows = labels([n % 2 for n in range(1000)])
    division = places(divide(rows, Stratified(1), "churned", keys=["customer"]))
    shuffled = rows.sample(fraction=1, shuffle=True, seed=3)
    assert places(divide(shuffled, Stratified(1), "churned", keys=["customer"])) == division
    assert places(divide(rows, Stratified(2), "churned", keys=["customer"])) != division
    more = labels([n % 2 for n in range(1100)])
    changed = places(divide(more, Stratified(1), "churned", keys=["customer"]))
    moved = sum(changed[key] != place for key, place in division.items())
    assert moved < 30  # only those beside a boundary


def test_the_description_says_that_the_split_is_random() -> None:
    parts = divide(labels([0, 1] * 20), Stratified(7), "churned", keys=["customer"])
    assert parts.description == "random, stratified by churned, seed 7; not by time"
    assert parts.boundaries == {}
    numbers = divide(labels([0.5, 1.5] * 20), Stratified(), "churned", by_class=False, keys=["customer"])
    assert numbers.description == "random, seed 0; not by time"


def test_a_class_with_too_few_rows_is_refused() -> None:
    with pytest.raises(Refused, match="the class 'rare' of churned has 2 rows"):
        divide(labels(["often"] * 30 + ["rare"] * 2), Stratified(), "churned", keys=["customer"])
    with pytest.raises(Refused, match="the target has 2 rows"):
        divide(labels([1.0, 2.0]), Stratified(), "churned", by_class=False, keys=["customer"])
    with pytest.raises(Refused, match="the target has 0 rows"):
        divide(labels([1.0]).clear(), Stratified(), "churned", by_class=False, keys=["customer"])


@given(st.lists(st.integers(0, 40), min_size=200, max_size=300), st.integers(0, 3))
def test_all_rows_of_a_group_are_in_one_part(groups: list[int], seed: int) -> None:
    rows = labels([n % 2 for n in range(len(groups))], groups)
    try:
        parts = divide(rows, ByGroup("customer", seed, validation=0.3, test=0.3), "churned")
    except Refused:
        return
    owners = [set(part["customer"].to_list()) for _, part in parts]
    assert sum(map(len, owners)) == len(set(groups))
    assert sum(len(part) for _, part in parts) == len(groups)
    fewer = rows.filter(pl.col("customer") < 30)
    try:
        again = places(divide(fewer, ByGroup("customer", seed, validation=0.3, test=0.3), "churned"))
    except Refused:
        return
    assert again.items() <= places(parts).items()


def test_a_group_split_that_is_not_possible_is_refused() -> None:
    rows = labels([0, 1] * 20, ["only"] * 40)
    with pytest.raises(Refused, match=r"part of 1 group by customer is empty"):
        divide(rows, ByGroup("customer"), "churned")
    with pytest.raises(ProjectError, match="column 'household' of the split ByGroup does not exist") as error:
        divide(rows, ByGroup("household"), "churned")
    assert error.value.remedy == "The training set has: customer, event_timestamp, churned."


def test_shares_that_leave_no_train_part_are_refused_where_they_are_declared() -> None:
    for declare in (lambda: Stratified(validation=0.5, test=0.5), lambda: ByGroup("a", test=1.0)):
        with pytest.raises(ProjectError, match="leave a train part") as error:
            declare()
        assert error.value.where is not None
        assert __file__ in error.value.where


def test_rows_of_one_part_are_in_the_order_of_time() -> None:
    moments = [START + timedelta(hours=n * 7 % 50) for n in range(50)]
    rows = labels([n % 2 for n in range(50)]).with_columns(
        event_timestamp=pl.Series(moments, dtype=pl.Datetime("us", "UTC"))
    )
    for split in (Stratified(), ByGroup("customer", 1)):
        for _, part in divide(rows, split, "churned", keys=["customer"]):
            assert part["event_timestamp"].is_sorted()


def test_rows_without_keys_and_of_one_moment_are_divided_at_random() -> None:
    count = 600
    rows = pl.DataFrame(
        {
            "event_timestamp": [datetime(2026, 1, 1, tzinfo=UTC)] * count,
            "size": [float(number) for number in range(count)],
            "label": ["a", "b"] * (count // 2),
        }
    )
    parts = divide(rows, Stratified(seed=3), "label")
    expected = (count - 1) / 2  # a mean over rows by order would be far from it
    deviation = count / 12**0.5 / 90**0.5
    for _, part in parts:
        assert abs(part["size"].mean() - expected) < 4 * deviation
