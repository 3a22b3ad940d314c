"""Times as events spell them: text to instants, a column at a time.

The common spellings are parsed by polars, 40 ns each. What that leaves is parsed one by one, by the
definition: RFC 3339 by msgspec, any other spelling by `datetime.strptime`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.kernel.time import micros

__all__ = ["Parsed", "parse_one", "parse_times"]

_DIRECTIVE = re.compile(r"%(.)")
_WIDTHS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}
_ZONES = re.compile(r"(?<![A-Za-z])(UTC|GMT|Z)(?![A-Za-z])")
_RFC3339 = [("%Y-%m-%dT%H:%M:%SZ", 20)]


class Parsed(NamedTuple):
    """Times parsed.

    Attributes:
        micros: int64[n], microseconds since 1970, 0 where there is none.
        null: bool[n], where no time was given.
        broken: place → (code, reason), where the text is no time or has no zone.
    """

    micros: NDArray[np.int64]
    null: NDArray[np.bool_]
    broken: dict[int, tuple[str, str]]


def parse_times(texts: Sequence[str | None], spellings: Sequence[str]) -> Parsed:
    """Parses a column of texts by the spellings a contract allows (declare.event.Contract.times)."""
    column = pl.Series(texts, dtype=pl.String)
    null = column.is_null().to_numpy()
    found = pl.Series([None], dtype=pl.Datetime("us")).new_from_index(0, len(column))
    for pattern, width in _fast(spellings):
        if found.null_count() == len(column):
            rest = column
        else:
            rest = pl.select(pl.when(found.is_null()).then(column)).to_series()
        if rest.null_count() == len(column):
            break
        # Only the one fixed width: unpadded numbers, which polars would take, are for the slow way.
        rest = pl.select(pl.when(rest.str.len_bytes() == width).then(rest)).to_series()
        parsed = rest.str.to_datetime(pattern, time_unit="us", strict=False, cache=False)
        found = (
            parsed if found.null_count() == len(column) else pl.select(pl.coalesce(found, parsed)).to_series()
        )
    result = found.to_physical().fill_null(0).to_numpy(writable=True)
    broken: dict[int, tuple[str, str]] = {}
    for place in np.flatnonzero(found.is_null().to_numpy() & ~null):
        one = parse_one(column[int(place)], spellings)
        if isinstance(one, int):
            result[place] = one
        else:
            broken[int(place)] = one
    return Parsed(result, null, broken)


def parse_one(text: str, spellings: Sequence[str]) -> int | tuple[str, str]:
    """One time in microseconds since 1970, or the code and reason it is refused for."""
    naive = False
    for spelling in spellings:
        try:
            if spelling == "rfc3339":
                instant = msgspec.convert(text, datetime)
            else:
                instant = datetime.strptime(text, spelling)
                if instant.tzinfo is None and _ZONES.search(_DIRECTIVE.sub(" ", spelling)):
                    instant = instant.replace(tzinfo=UTC)
            if instant.tzinfo is not None:
                return micros(instant)
            naive = True
        except (ValueError, OverflowError):
            continue  # not this spelling; msgspec.ValidationError is a ValueError
    if naive:
        return "naive_time", f"{text[:60]!r} has no time zone"
    return "bad_time", f"{text[:60]!r} is not spelled as {' or '.join(spellings)}"


def _fast(spellings: Sequence[str]) -> list[tuple[str, int]]:
    """The spellings that polars parses as strptime would, each with the width of a padded text."""
    fast: list[tuple[str, int]] = []
    for spelling in spellings:
        if spelling == "rfc3339":
            fast += _RFC3339
            continue
        directives = _DIRECTIVE.findall(spelling)
        literal = _DIRECTIVE.sub(" ", spelling)
        # Each of the six exactly once, a zone in words, and nothing that polars reads otherwise.
        if sorted(directives) == sorted(_WIDTHS) and _ZONES.search(literal) and literal.isascii():
            width = len(_DIRECTIVE.sub("", spelling)) + sum(_WIDTHS[d] for d in directives)
            fast.append((spelling, width))
    return fast
