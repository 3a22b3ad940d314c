"""Checks a CSV file byte by byte before its cells are read, and refuses what cannot be read correctly.

The rules are RFC 4180's: rows end with LF or CRLF, or all of them with CR; a cell that holds a delimiter, a
quote or a line end is quoted, and a quote in it is doubled; every row has as many cells as the header.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.kernel.counts import plural
from headrace.kernel.errors import ProjectError

__all__ = ["CsvFile", "check_csv", "without_null_values"]

_CHUNK = 4 << 20
_QUOTE, _LF, _CR, _NUL = (ord(c) for c in '"\n\r\0')

_RAGGED = "A cell that holds {!r} must be quoted. If the delimiter is another: source(..., delimiter=...)."
_DOUBLED = 'A cell that holds a quote must be quoted, and the quote doubled: "5"" pipe".'
_OPEN = (
    "text follows the closing quote of a cell: the quote is not closed, or a quote in the cell is not doubled"
)

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]


class CsvFile(NamedTuple):
    """A CSV file whose structure has been checked.

    Attributes:
        path: the path of the file.
        columns: the names in its header, each once.
        rows: how many rows follow the header.
        content: the path of the file; or its text as UTF-8, if the file has another encoding or empty lines.
        eol: the character that ends a row.
        empty_lines: the numbers of the lines without a cell, which do not count as rows (row 1 is the header).
        delimiter: the character between its cells.
        decimal: the character before the fraction of a number.
        null_values: the texts of cells that are null.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    content: Path | bytes
    eol: str
    empty_lines: tuple[int, ...]
    delimiter: str = ","
    decimal: str = "."
    null_values: tuple[str, ...] = ()

    def scan(self) -> pl.LazyFrame:
        """The rows in order, each column as text. An empty cell is null, one of `null_values` too; `""` is the
        empty text."""
        rows = pl.scan_csv(
            self.content,
            separator=self.delimiter,
            infer_schema=False,
            glob=False,
            eol_char=self.eol,
            with_column_names=lambda _: list(self.columns),
        )
        return without_null_values(rows, self.null_values)

    def row_number(self, index: int) -> int:
        """The number in the file of the row at this index of `scan`; the header is row 1."""
        number = index + 2
        for line in self.empty_lines:
            number += line <= number
        return number


def without_null_values(rows: pl.LazyFrame, null_values: tuple[str, ...]) -> pl.LazyFrame:
    """The rows of text columns with null instead of the texts that mean "no value"."""
    if not null_values:
        return rows
    return rows.with_columns(pl.when(~pl.all().is_in(list(null_values))).then(pl.all()))


def check_csv(path: Path, encoding: str, delimiter: str = ",") -> CsvFile:
    """Checks every byte of the file.

    Args:
        path: the file.
        encoding: Python's name of the encoding; UTF-8 may begin with a byte order mark.
        delimiter: the character between its cells.

    Raises:
        ProjectError: the file has no header, or two columns of the same name; a row has more or fewer cells
            than the header; a quote is not closed or is inside an unquoted cell; a byte is not valid in the
            encoding.
    """
    if path.stat().st_size == 0:
        raise ProjectError("the file is empty", where=str(path), remedy="The first row must name the columns.")
    if encoding == "utf-8":
        return _Scan(path, np.memmap(path, np.uint8, mode="r"), delimiter).result(path)
    text = _decode(path, encoding)
    return _Scan(path, np.frombuffer(text, np.uint8), delimiter).result(text)


def _decode(path: Path, encoding: str) -> bytes:
    raw = path.read_bytes()
    try:
        return raw.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise ProjectError(
            f"byte {raw[error.start]:02x} at offset {error.start:,} is not valid {encoding}",
            where=f"{path}, line {row}",
            remedy="Declare the encoding of the file: source(..., encoding=...).",
        ) from error
    except UnicodeEncodeError as error:
        raise ProjectError(f"the file is not valid {encoding}: {error.reason}", where=str(path)) from error


class _Scan:
    """Checks the bytes in one pass, a chunk at a time."""

    def __init__(self, path: Path, content: Bytes, delimiter: str) -> None:
        self._path = path
        self._delimiter = delimiter
        self._separator = ord(delimiter)
        self._structural = np.zeros(256, bool)
        self._structural[[_QUOTE, self._separator, _LF, _CR, _NUL]] = True
        self._content = content
        self._begin = 3 if content[:3].tobytes() == codecs.BOM_UTF8 else 0
        self._refuse_utf16()
        self._eol = 0  # known when the first row ends
        self._row = 1  # the number of the current row
        self._row_begin = self._begin
        self._cells = 0  # the delimiters so far in the current row
        self._quoted = False
        self._header: tuple[str, ...] = ()
        self._empty: list[int] = []
        self._dropped: list[tuple[int, int]] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(self._begin, len(content), _CHUNK):
            self._check_chunk(start, min(start + _CHUNK, len(content)))
        self._check_end()

    def result(self, content: Path | bytes) -> CsvFile:
        """The checked file. Its content leaves out the empty lines."""
        if self._dropped:
            keep = np.ones(len(self._content), bool)
            for begin, end in self._dropped:
                keep[begin:end] = False
            content = self._content[keep].tobytes()
        rows = self._row - 2 - len(self._empty)
        eol = chr(self._eol or _LF)
        return CsvFile(self._path, self._header, rows, content, eol, tuple(self._empty), self._delimiter)

    def _refuse_utf16(self) -> None:
        first = self._content[:2].tobytes()
        if first in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            self._refuse("the file is UTF-16, not UTF-8", 1, 'Declare it: source(..., encoding="utf-16").')

    def _check_chunk(self, start: int, end: int) -> None:
        chunk = self._content[start:end]
        faults = list(self._find_undecodable(chunk, start, final=end == len(self._content)))
        at = np.flatnonzero(self._structural[chunk])
        kinds = chunk[at]
        at = at + start
        quotes = kinds == _QUOTE
        inside = (np.cumsum(quotes) + self._quoted) & 1 == 1  # whether a quote is open after each of them
        outside = ~quotes & ~inside
        if not self._eol:
            self._eol = self._row_end_of(at[outside & ((kinds == _LF) | (kinds == _CR))])
        ends = outside & (kinds == (self._eol or _LF))
        end_at = at[ends]
        faults += self._find_misplaced(at, kinds, inside, outside)
        marks = ends[ends | (outside & (kinds == self._separator))]
        faults += self._count_cells(end_at, marks)
        if faults:
            position, what, remedy = min(faults)
            self._refuse(what, self._row + int(np.searchsorted(end_at, position)), remedy)
        self._row += len(end_at)
        self._row_begin = int(end_at[-1]) + 1 if len(end_at) else self._row_begin
        if quotes.any():
            self._quoted = bool(inside[-1])

    def _find_undecodable(self, chunk: Bytes, start: int, *, final: bool) -> Iterator[tuple[int, str, str]]:
        undecoded = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(chunk.tobytes(), final)
        except UnicodeDecodeError as error:
            position = start - undecoded + error.start
            remedy = 'Save the file as UTF-8, or declare its encoding, such as source(..., encoding="latin-1").'
            value = int(self._content[position])
            yield position, f"byte {value:02x} at offset {position:,} is not valid UTF-8", remedy

    def _row_end_of(self, ends: Places) -> int:
        """The byte that ends the first row, LF or CR; 0 if the row has not ended yet."""
        if not len(ends):
            return 0
        first = int(ends[0])
        if self._content[first] == _LF:
            return _LF
        followed = first + 1 < len(self._content) and self._content[first + 1] == _LF
        return _LF if followed else _CR

    def _find_misplaced(
        self,
        at: Places,
        kinds: Bytes,
        inside: Flags,
        outside: Flags,
    ) -> Iterator[tuple[int, str, str]]:
        """The first byte of each kind that is not allowed where it is."""
        last = len(self._content) - 1
        before = np.where(at > self._begin, self._content[np.maximum(at, 1) - 1], _LF)
        after = np.where(at < last, self._content[np.minimum(at + 1, last)], _LF)
        borders = [self._separator, _LF, _CR, _QUOTE]
        opening, closing = (kinds == _QUOTE) & inside, (kinds == _QUOTE) & ~inside
        mixed = outside & (kinds == _LF)
        if self._eol == _LF:
            mixed = outside & (kinds == _CR) & ((after != _LF) | (at == last))
        for wrong, what, remedy in (
            (kinds == _NUL, "the row has a zero byte", 'If it is UTF-16: source(..., encoding="utf-16").'),
            (opening & ~np.isin(before, borders), "a quote is inside an unquoted cell", _DOUBLED),
            (closing & ~np.isin(after, borders), _OPEN, _DOUBLED),
            (mixed, "the row has another line end than the first row", "End all rows alike: LF, CRLF or CR."),
        ):
            if wrong.any():
                yield int(at[np.argmax(wrong)]), what, remedy

    def _count_cells(self, ends: Places, marks: Flags) -> Iterator[tuple[int, str, str]]:
        """Counts the cells of the rows that end in this chunk, and yields the first row with a wrong count.

        Args:
            ends: the positions of the row ends.
            marks: for each delimiter and row end of the chunk, in order, whether it is a row end.
        """
        places = np.flatnonzero(marks)
        cells = np.diff(places, prepend=-1 - self._cells)
        self._cells = self._cells + len(marks) if not len(places) else len(marks) - int(places[-1]) - 1
        if not len(ends):
            return
        begins = np.concatenate(([self._row_begin], ends[:-1] + 1))
        if not self._header:
            self._header = self._names(int(begins[0]), int(ends[0]))
        width = len(self._header)
        lengths = ends - begins
        empty = (cells == 1) & ((lengths == 0) | ((lengths == 1) & (self._content[begins] == _CR)))
        if width > 1:
            self._drop(np.flatnonzero(empty), begins, ends)
            cells = np.where(empty, width, cells)
        ragged = cells != width
        if ragged.any():
            first = int(np.argmax(ragged))
            count = plural(cells[first], "cell")
            yield (
                int(ends[first]),
                f"the row has {count}, and the header has {width}",
                _RAGGED.format(self._delimiter),
            )

    def _drop(self, empty: Places, begins: Places, ends: Places) -> None:
        for index in empty.tolist():
            self._empty.append(self._row + index)
            self._dropped.append((int(begins[index]), int(ends[index]) + 1))

    def _names(self, begin: int, end: int) -> tuple[str, ...]:
        text = self._content[begin:end].tobytes().decode("utf-8", "replace").removesuffix("\r")
        names = next(csv.reader([text], delimiter=self._delimiter), [])
        for name in names:
            if names.count(name) > 1:
                self._refuse(f"the header names the column {name!r} twice", 1, "Give each column its own name.")
        other = next((mark for mark in ";\t|" if len(names) == 1 and mark in text and '"' not in text), None)
        if other is not None and other != self._delimiter:
            remedy = f"Declare how its cells are divided: source(..., delimiter={other!r})."
            self._refuse(f"the header is one cell that holds {other!r}: {text[:60]!r}", 1, remedy)
        if not any(names):
            self._refuse("the header names no column", 1, "The first row must name the columns.")
        return tuple(names)

    def _check_end(self) -> None:
        """Checks the last row, which may lack its line end."""
        size = len(self._content)
        if self._quoted:
            self._refuse("a quote opens in this row and is never closed", self._row, "Close the quote.")
        if self._row_begin < size:
            at = np.array([size])
            for _, what, remedy in self._count_cells(at, np.array([True])):
                self._refuse(what, self._row, remedy)
            self._row += 1
        if not self._header:
            self._refuse("the file has no header", 1, "The first row must name the columns.")

    def _refuse(self, what: str, row: int, remedy: str) -> NoReturn:
        raise ProjectError(what, where=f"{self._path}, row {row:,}", remedy=remedy)
