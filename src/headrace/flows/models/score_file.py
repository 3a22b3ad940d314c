"""Files of rows to score: reads them, and writes them with their answers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import polars as pl
from msgspec import Struct

from headrace.events.files import read_events
from headrace.flows.models.score import Scores, check_columns, list_answers, make_answers
from headrace.kernel.errors import CallError

__all__ = ["FORMATS", "Format", "RowsFile", "read_rows", "write_scores"]

Format = Literal["csv", "ndjson", "parquet"]
FORMATS: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet"}
"""The ending of a file → its format."""


class RowsFile(Struct, frozen=True):
    """The rows of a file.

    Attributes:
        format: the format of the file.
        columns: the names of all columns.
        rows: column → value of each row; all values of a CSV file are text, and an empty one is left out.
    """

    format: Format
    columns: list[str]
    rows: list[dict[str, Any]]


def read_rows(file: Path) -> RowsFile:
    """Reads a CSV, NDJSON or Parquet file.

    Raises:
        CallError: the file does not exist, is of another kind, or has a row that cannot be read.
    """
    format_ = FORMATS.get(file.suffix.lower())
    if format_ == "parquet" and file.is_file():
        try:
            frame = pl.read_parquet(file, glob=False)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise CallError(f"it cannot be read as Parquet: {reason}", where=str(file)) from error
        return RowsFile(format_, frame.columns, frame.to_dicts())
    rows = [_decode(line, file, number) for number, line in enumerate(read_events(file), 1)]
    if format_ == "csv":  # the rows lack what is empty
        with file.open(encoding="utf-8-sig", newline="") as stream:
            columns = next(filter(None, csv.reader(stream)), [])
        return RowsFile(format_, columns, rows)
    return RowsFile("ndjson", list(dict.fromkeys(name for row in rows for name in row)), rows)


def write_scores(
    stream: BinaryIO, format: Format, file: RowsFile, scores: Scores, *, explain: bool = False
) -> None:
    """Writes the rows of a file with the columns of `score.list_answers`. In CSV what is nested is JSON.

    Raises:
        CallError: the rows have a column with the name of an answer's.
    """
    answers, frame = list_answers(scores, explain=explain), make_answers(scores, explain=explain)
    check_columns(file.columns, frame.columns)
    pairs = zip(file.rows, answers, strict=True)
    if format == "ndjson":
        encode = msgspec.json.Encoder().encode
        stream.writelines(encode({**row, **answer}) + b"\n" for row, answer in pairs)
    elif format == "csv":
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.DictWriter(text, [*file.columns, *frame.columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_to_cells({**row, **answer}) for row, answer in pairs)
        text.flush()
        text.detach()
    else:
        rows = [{name: row.get(name) for name in file.columns} for row in file.rows]
        given = pl.DataFrame(rows, schema=file.columns, infer_schema_length=None)
        given.hstack(frame).write_parquet(stream)


def _decode(line: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallError(f"it is not a JSON object: {error}", where=f"{file}: row {number:,}") from error


def _to_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _to_cell(value) for name, value in row.items()}


def _to_cell(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return msgspec.json.encode(value).decode() if value else ""
    if isinstance(value, float):
        return repr(value)
    return value
