"""Tables in HTML for notebooks: every text is escaped, and no table is larger than a limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from headrace.kernel.counts import plural

__all__ = ["LIMIT", "escape_unprintable", "html_pairs", "html_table", "html_text"]

LIMIT = 50_000
"""The most bytes of what one object shows."""
_CELL = 200  # characters; longer text is cut
_RESERVE = 200  # bytes for the line that says what is left out


def html_text(value: object) -> str:
    """The value as escaped text: what is not printable is written as an escape, and long text is cut."""
    text = "" if value is None else str(value)
    is_cut = len(text) > _CELL
    return escape(escape_unprintable(text[:_CELL])) + ("…" if is_cut else "")


def escape_unprintable(text: str) -> str:
    """The text with an escape in place of each character that is not printable, such as \\x00."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def html_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    notes: Sequence[str] = (),
    limit: int = LIMIT,
) -> str:
    """A table with a title, and lines below it.

    Args:
        title: the line above the table.
        columns: the names of the columns.
        rows: the cells of each row; None is empty.
        notes: the lines below the table.
        limit: the most bytes; rows that have no room are left out, and a line says how many.
    """
    begin = f"<p><b>{html_text(title)}</b></p><table><thead><tr>"
    begin += "".join(f"<th>{html_text(name)}</th>" for name in columns) + "</tr></thead><tbody>"
    end = "</tbody></table>" + "".join(f"<p>{html_text(note)}</p>" for note in notes)
    size, parts, left_out = _size(begin) + _size(end) + _RESERVE, [begin], 0
    if size > limit:
        return f"<p><b>{html_text(title)}</b></p><p>{len(columns):,} columns: too many to show</p>"
    for row in rows:
        text = "<tr>" + "".join(f"<td>{html_text(cell)}</td>" for cell in row) + "</tr>"
        size += _size(text)
        if left_out or size > limit:
            left_out += 1
        else:
            parts.append(text)
    if left_out:
        end += f"<p>{plural(left_out, 'more row')}</p>"
    return "".join([*parts, end])


def html_pairs(title: str, pairs: Iterable[tuple[str, object]], *, limit: int = LIMIT) -> str:
    """A table of names and values."""
    return html_table(title, ("", ""), pairs, limit=limit)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
