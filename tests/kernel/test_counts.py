"""Numbers with what they count."""

from __future__ import annotations

import pytest

from headrace.kernel.counts import plural


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_000, "1,000 rows"), (-1, "-1 rows")]
)
def test_a_noun_stands_in_the_plural_but_for_one(number: int, text: str) -> None:
    assert plural(number, "row") == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows have"), (1, "1 row has"), (2, "2 rows have")])
def test_a_verb_agrees_with_its_number(number: int, text: str) -> None:
    assert plural(number, "row", "has", "have") == text
