"""HTML for notebooks: hostile texts are escaped, and nothing is larger than the limit."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from headrace.kernel.html import LIMIT, html_pairs, html_table

HOSTILE = "<script>alert('x')</script>\"'&</td></table>\u202egnp\x00"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[object] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs


def test_hostile_names_and_values_are_text() -> None:
    text = html_table(HOSTILE, [HOSTILE], [[HOSTILE], [{HOSTILE: HOSTILE}]], notes=[HOSTILE])
    tags = Tags(text)
    assert tags.names == {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert tags.attributes == []
    assert "\u202e" not in text
    assert "\x00" not in text


def test_rows_without_room_are_counted() -> None:
    rows = [[number, "é" * 300] for number in range(10_000)]
    text = html_table("title", ["number", "text"], rows)
    assert len(text.encode()) <= LIMIT
    shown = text.count("<tr>") - 1
    assert shown > 50
    assert f"<p>{10_000 - shown:,} more rows</p>" in text


def test_a_header_without_room_is_left_out() -> None:
    text = html_table("title", ["&" * 200] * 1_000, [])
    assert "1,000 columns" in text
    assert len(text.encode()) <= LIMIT


@given(st.lists(st.tuples(st.text(), st.text(max_size=400)), max_size=300), st.text())
def test_no_table_is_larger_than_the_limit(pairs: list[tuple[str, str]], title: str) -> None:
    text = html_pairs(title, pairs, limit=5_000)
    assert len(text.encode()) <= 5_000
    assert Tags(text).names <= {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}
