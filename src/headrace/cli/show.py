"""How results look: tables a person can read, or one JSON object."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from json import dumps
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from headrace.cli.call import Call

__all__ = ["json", "line", "number", "readable", "seconds", "table", "working"]


def json(value: Any) -> None:
    """Prints a value (dataclasses, structs, datetimes, paths and containers of them) as one JSON object."""
    # Keys become texts first: a position's log partitions are numbers, and only texts can be put in order.
    plain = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
    text = msgspec.json.format(msgspec.json.encode(plain, order="deterministic"), indent=1).decode()
    # What is not printable stands within texts, where JSON has its own escapes for it.
    click.echo("".join(c if c.isprintable() or c == "\n" else dumps(c)[1:-1] for c in text))


def line(call: Call, text: str) -> None:
    """Prints a line for a person; nothing where JSON is asked for."""
    if not call.json:
        click.echo(text)


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table; numbers stand to the right."""
    cells = [[_cell(one) for one in row] for row in rows]
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        right = all(_numeric(row[at]) for row in cells) and bool(cells)
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in cells:
        made.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=160)
    console.print(made)


def readable(text: str | bytes, longest: int | None = None) -> str:
    """Text of unknown origin, safe to print: what is no printable character (control characters, those
    that turn the direction of writing, bytes that are no UTF-8) is shown by its escape.

    Args:
        longest: characters after which it is cut.
    """
    if isinstance(text, bytes):
        text = (text if longest is None else text[: 4 * longest]).decode(errors="backslashreplace")
    cut = longest is not None and len(text) > longest
    text = text[:longest] if cut else text
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"{text}…" if cut else text


def number(value: int | None) -> str:
    """12345 → 12,345; None → nothing."""
    return "" if value is None else f"{value:,}"


def seconds(value: float | None) -> str:
    """Seconds with as many digits as tell something."""
    return "" if value is None else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def _cell(value: object) -> str:
    if value is None or type(value) is int:
        return number(value)
    return "\n".join(map(readable, str(value).split("\n")))  # cells show what came in with events, too


def _numeric(text: str) -> bool:
    return not text or text.removesuffix(" s").replace(",", "").replace(".", "", 1).lstrip("-").isdigit()


def working(text: str) -> None:
    """Shows what goes on, on a line of its own that the next call replaces; only where a person watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text and text + ' ...'}")
        sys.stderr.flush()
