"""Files of events: CSV, NDJSON and Parquet, as the bytes of JSON events.

A line of an NDJSON file is an event, byte for byte. Rows of the other files are encoded as JSON: the cells of a
CSV file as texts, an empty cell as a missing field. A CSV row that is too short gives the cells that it has.
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
from headrace.lake.reading.parquet import scan_parquet

__all__ = ["check_file", "read_events"]

_BATCH_ROWS = 20_000  # of a Parquet file
_MAX_CELL_LENGTH = 64 << 20  # characters; a longer cell most likely has an unclosed quote
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def check_file(file: Path) -> None:
    """Checks that read_events can read a file to its end.

    In an NDJSON file every line is an event, whatever it holds, so its lines are not checked.

    Raises:
        CallError: it cannot.
    """
    kind = _kind(file)
    if kind == ".csv":
        deque(_csv(file), maxlen=0)
    elif kind == ".parquet":
        deque(_frames(file), maxlen=0)
    else:
        _open(file).close()


def read_events(file: Path) -> Iterator[bytes]:
    """Reads the events of a file, in its order.

    Raises:
        CallError: the file does not exist, is of another kind, or has a row that cannot be read.
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
            "it is a folder",
            where=str(file),
            remedy="Name a file, and call the command once for each file of a folder.",
        )
    if not file.is_file():
        raise CallError("the file does not exist", where=str(file))
    kind = file.suffix.lower()
    if kind not in (".csv", ".ndjson", ".jsonl", ".parquet"):
        raise CallError(
            f"a {kind or 'file without ending'} file cannot be read",
            where=str(file),
            remedy="Save it as .csv, .ndjson, .jsonl or .parquet.",
        )
    return kind


def _open(file: Path) -> BinaryIO:
    """Opens a text file after its UTF-8 mark, if it has one."""
    stream = file.open("rb")
    start = stream.read(len(_UTF8_MARK))
    if start.startswith(_UTF16_MARKS):
        stream.close()
        raise CallError("it is written in UTF-16", where=str(file), remedy="Save it as UTF-8.")
    if start != _UTF8_MARK:
        stream.seek(0)
    return stream


def _lines(file: Path) -> Iterator[bytes]:
    with _open(file) as stream:
        for line in stream:
            # A line may end with CR alone. Splitting there is safe: in JSON a bare CR is only white space.
            for text in line.rstrip(b"\r\n").split(b"\r"):
                if not text.isspace() and text:
                    yield text


def _frames(file: Path) -> Iterator[pl.DataFrame]:
    rows = 0
    try:
        for frame in scan_parquet(file).collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
            yield frame
            rows += len(frame)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CallError(
            f"it cannot be read as Parquet after row {rows:,}: {reason}",
            where=str(file),
            remedy="Check that it is a complete Parquet file.",
        ) from error


def _csv(file: Path) -> Iterator[dict[str, str]]:
    rows = _cells(file)
    _, columns = next(rows, (0, []))
    if not columns:
        raise CallError("it has no header", where=str(file), remedy="Its first line names the columns.")
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    if repeated is not None:
        raise CallError(
            f"its header names the column {repeated!r} {columns.count(repeated)} times",
            where=f"{file}: line 1",
            remedy="Give each column a unique name.",
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
    """Reads the rows that are not empty, with the header, each with the number of its first line."""
    _open(file).close()
    csv.field_size_limit(_MAX_CELL_LENGTH)
    # Bytes that are not UTF-8 pass through unchanged: the contract judges them.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream, strict=True)
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
                remedy='Check for an unclosed quote ("). A cell has at most '
                f'{_MAX_CELL_LENGTH:,} characters; one that holds a quote is written "a ""b"" c".',
            ) from error


def _encode(row: dict[str, str]) -> bytes:
    try:
        return numbers.encode(row)
    except UnicodeEncodeError:  # bytes that are not UTF-8 reach the log unchanged
        return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape")
