"""Prints results: as tables for people, or as one JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from json import dumps
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from headrace.cli.call import Call

__all__ = ["json", "line", "number", "readable", "seconds", "table"]


def json(value: Any) -> None:
    """Prints a value (records, datetimes, paths and containers of them) as one JSON object."""
    # Keys become strings first, because a position's log partitions are numbers and only strings can be sorted.
    plain = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
    text = msgspec.json.format(msgspec.json.encode(plain, order="deterministic"), indent=1).decode()
    # Characters that are not printable occur only inside strings, where JSON has escapes for them.
    click.echo("".join(c if c.isprintable() or c == "\n" else dumps(c)[1:-1] for c in text))


def line(call: Call, text: str) -> None:
    """Prints a line for people; nothing with --json."""
    if not call.json:
        click.echo(text)


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table with numbers aligned to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    grid.show_header = any(columns)
    for at, column in enumerate(columns):
        right = all(_numeric(row[at]) for row in cells) and bool(cells)
        grid.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in cells:
        grid.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=160)
    console.print(grid)


def readable(text: str | bytes, longest: int | None = None) -> str:
    """Text of unknown origin, safe to print. Characters that are not printable (control characters, those that
    change the direction of writing, bytes that are not UTF-8) are escaped.

    Args:
        longest: the number of characters after which it is cut.
    """
    if isinstance(text, bytes):
        text = (text if longest is None else text[: 4 * longest]).decode(errors="backslashreplace")
    cut = longest is not None and len(text) > longest
    text = text[:longest] if cut else text
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"{text}…" if cut else text


def number(value: int | None) -> str:
    """12345 → 12,345; None → empty."""
    return "" if value is None else f"{value:,}"


def seconds(value: float | None) -> str:
    """Seconds with two decimal places, or one from 10 s on; None → empty."""
    return "" if value is None else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def _cell(value: object) -> str:
    if value is None or type(value) is int:
        return number(value)
    return "\n".join(map(readable, str(value).split("\n")))  # a cell may show the text of an event


def _numeric(text: str) -> bool:
    number = text.removeprefix("≤ ").removesuffix(" s")
    return not text or number.replace(",", "").replace(".", "", 1).lstrip("-").isdigit()
