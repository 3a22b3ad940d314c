"""Numbers with what they count."""

from __future__ import annotations

import pytest

from headrace.kernel.counts import describe_ranges, plural


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_000, "1,000 rows"), (-1, "-1 rows")]
)
def test_a_noun_stands_in_the_plural_but_for_one(number: int, text: str) -> None:
    assert plural(number, "row") == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows have"), (1, "1 row has"), (2, "2 rows have")])
def test_a_verb_agrees_with_its_number(number: int, text: str) -> None:
    assert plural(number, "row", "has", "have") == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([3], "3"),
        ([2, 1], "1, 2"),
        ([1, 2, 3], "1 to 3"),
        ([9, 1, 10, 4, 3, 7, 2], "1 to 4, 7, 9, 10"),
    ],
)
def test_numbers_that_follow_each_other_are_a_range(numbers: list[int], text: str) -> None:
    assert describe_ranges(numbers) == text
