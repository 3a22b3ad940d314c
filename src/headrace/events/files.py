"""Files of events: CSV, NDJSON and Parquet as the bytes of one JSON event after the other.

The lines of an NDJSON file are the events, to the byte. The rows of the others are written as JSON: a CSV
file's cells as texts, an empty one as a field that is not there; of a line that is cut off the cells that
it has.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import polars as pl

from headrace.events.formats import numbers
from headrace.kernel.errors import CallError

__all__ = ["check_file", "read_events"]

_ROWS = 20_000  # of a Parquet file, read at once
_LONGEST_CELL = 64 << 20  # characters; what is longer is most likely a quote that is not closed
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def check_file(file: Path) -> None:
    """Reads a file of rows to its end; of NDJSON every line is an event, whatever it holds.

    Raises:
        CallError: read_events could not read all of it.
    """
    kind = _kind(file)
    if kind == ".csv":
        deque(_csv(file), maxlen=0)
    elif kind == ".parquet":
        deque(_frames(file), maxlen=0)
    else:
        _open(file).close()


def read_events(file: Path) -> Iterator[bytes]:
    """The events of a file, in its order.

    Raises:
        CallError: there is no such file, it is of another kind, or a row of it cannot be read.
    """
    kind = _kind(file)
    if kind == ".csv":
        yield from map(_encode, _csv(file))
    elif kind == ".parquet":
        for frame in _frames(file):
            yield from map(numbers.encode, frame.to_dicts())
    else:
        yield from _lines(file)


def _kind(file: Path) -> str:
    if file.is_dir():
        raise CallError(
            "it is a folder", where=str(file), remedy="Give a file; send those of a folder one by one."
        )
    if not file.is_file():
        raise CallError("there is no such file", where=str(file))
    kind = file.suffix.lower()
    if kind not in (".csv", ".ndjson", ".jsonl", ".parquet"):
        raise CallError(
            f"a {kind or 'file without ending'} file cannot be sent",
            where=str(file),
            remedy="Give it as .csv, .ndjson, .jsonl or .parquet.",
        )
    return kind


def _open(file: Path) -> BinaryIO:
    """A file of text, after the mark that says that it is UTF-8."""
    opened = file.open("rb")
    start = opened.read(len(_UTF8_MARK))
    if start.startswith(_UTF16_MARKS):
        opened.close()
        raise CallError("it is written in UTF-16", where=str(file), remedy="Save it as UTF-8.")
    if start != _UTF8_MARK:
        opened.seek(0)
    return opened


def _lines(file: Path) -> Iterator[bytes]:
    with _open(file) as opened:
        for line in opened:
            # A line ends with LF, CR LF or CR alone: within an event a CR would be white space.
            for text in line.rstrip(b"\r\n").split(b"\r"):
                if not text.isspace() and text:
                    yield text


def _frames(file: Path) -> Iterator[pl.DataFrame]:
    rows = 0
    try:
        for frame in pl.scan_parquet(file, glob=False).collect_batches(chunk_size=_ROWS, maintain_order=True):
            yield frame
            rows += len(frame)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CallError(
            f"it cannot be read as Parquet after row {rows:,}: {reason}",
            where=str(file),
            remedy="Is it a whole Parquet file?",
        ) from error


def _csv(file: Path) -> Iterator[dict[str, str]]:
    rows = _cells(file)
    _, columns = next(rows, (0, []))
    if not columns:
        raise CallError("it has no header", where=str(file), remedy="Its first line names the columns.")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise CallError(
            f"its header names the column {twice!r} {columns.count(twice)} times",
            where=f"{file}: line 1",
            remedy="Give each column a name of its own.",
        )
    for number, (line, row) in enumerate(rows, 1):
        if any(row[len(columns) :]):
            raise CallError(
                f"row {number:,} has {len(row)} cells, and the header names {len(columns)} columns",
                where=f"{file}: line {line}",
                remedy='Write a cell that holds a comma in quotes ("black, hot").',
            )
        yield {name: cell for name, cell in zip(columns, row, strict=False) if cell}


def _cells(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, the header too, each with its first line."""
    _open(file).close()
    csv.field_size_limit(_LONGEST_CELL)
    # Bytes that are no UTF-8 go through as they are: to judge them is the contract's work.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        reader = csv.reader(opened, strict=True)
        number, line = 0, 1
        try:
            for row in reader:
                if row:
                    yield line, row
                    number += 1
                line = reader.line_num + 1
        except csv.Error as error:
            raise CallError(
                f"row {number:,} cannot be read: {error}" if number else f"the header cannot be read: {error}",
                where=f"{file}: line {line}",
                remedy='Is a quote (") left open there? A cell has at most '
                f'{_LONGEST_CELL:,} characters; one that holds a quote is written "a ""b"" c".',
            ) from error


def _encode(row: dict[str, str]) -> bytes:
    try:
        return numbers.encode(row)
    except UnicodeEncodeError:  # what was no UTF-8 in the file is none on the log
        return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape")
