"""What tiles keep for each aggregate function, and how a value is read from them.

A part is made from the values of a tile's events and merged with more; all of them are free of the
order in which events come. A reader takes a track (see tiles.py), the first tile that lies in the
window, and the unsettled events in the window: their times, and their values, null among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple

from headrace.features.aggregates.exact import mean_of, sum_of, total_of
from headrace.features.plan import Aggregation, Dtype
from headrace.kernel.time import from_micros

__all__ = ["Part", "Reader", "Track", "parts_of", "reader_of"]

Track = list[list[Any]]
Reader = Callable[[Track, int, list[int], list[Any]], object]


class Part(NamedTuple):
    """One thing kept of a tile.

    Attributes:
        make: from the times and values of the tile's events, in the order of time, none of them null.
        merge: from two of them to that of all their events.
    """

    make: Callable[[list[int], list[Any]], Any]
    merge: Callable[[Any, Any], Any]


def parts_of(users: Iterable[Aggregation], dtype: Dtype) -> dict[str, Part]:
    """What must be kept for these aggregations of one column."""
    parts: dict[str, Part] = {}
    last = 0
    for one in users:
        kind = one.function.name
        if kind in ("count", "mean"):
            parts["count"] = Part(lambda _, values: len(values), lambda a, b: a + b)
        if kind in ("sum", "mean"):
            parts["sum"] = _FLOAT_SUM if dtype == "float64" else _WHOLE_SUM
        if kind == "min":
            parts["min"] = Part(lambda _, values: min(values), min)
        if kind == "max":
            parts["max"] = Part(lambda _, values: max(values), max)
        if kind == "count_distinct":
            parts["distinct"] = Part(lambda _, values: sorted(set(values)), lambda a, b: sorted({*a, *b}))
        if kind == "first":
            parts["first"] = Part(
                lambda times, values: min(zip(times, values, strict=True)), lambda a, b: min(tuple(a), tuple(b))
            )
        if kind in ("last", "last_n"):
            last = max(last, one.function.n, 1)
    if last:
        parts["last"] = Part(
            lambda times, values: sorted(zip(times, values, strict=True))[-last:],
            lambda a, b: sorted(tuple(pair) for pair in chain(a, b))[-last:],
        )
    return parts


_FLOAT_SUM = Part(lambda _, values: total_of(values), lambda a, b: total_of([*a, *b]))
_WHOLE_SUM = Part(lambda _, values: _kept(sum(values)), lambda a, b: _kept(_whole_total([a, b], [])))


def reader_of(one: Aggregation, places: dict[str, int], dtype: Dtype) -> Reader:
    """How the aggregation's value is read; `places` says where in a track each part is."""
    kind = one.function.name
    if kind == "count":
        return _count(places["count"])
    if kind == "count_distinct":
        return _distinct(places["distinct"])
    if kind == "sum":
        return _sum(places["sum"], _float_sum if dtype == "float64" else _whole_sum)
    if kind == "mean":
        mean = _float_mean if dtype == "float64" else _whole_mean
        return _mean(places["sum"], _count(places["count"]), mean)
    plain = _PLAIN.get(dtype)
    if kind in ("min", "max"):
        return _extreme(places[kind], min if kind == "min" else max, plain)
    if kind == "first":
        return _first(places["first"], plain)
    return _last(places["last"], one.function.n, plain)


def _count(place: int) -> Reader:
    def read(track: Track, first: int, _: list[int], raw: list[Any]) -> int:
        count: int = sum(track[place][first:])
        return count + len(raw) - raw.count(None) if raw else count

    return read


def _distinct(place: int) -> Reader:
    def read(track: Track, first: int, _: list[int], raw: list[Any]) -> int:
        values = set(raw)
        values.update(chain.from_iterable(track[place][first:]))
        values.discard(None)
        return len(values)

    return read


def _float_sum(totals: list[Any], values: list[Any]) -> float:
    return sum_of(chain(chain.from_iterable(totals), values))


def _float_mean(totals: list[Any], values: list[Any], count: int) -> float:
    return mean_of(chain(chain.from_iterable(totals), values), count)


def _whole_sum(totals: list[Any], values: list[Any]) -> int:
    """Whole sums wrap around as int64 does, offline and online alike."""
    total = _whole_total(totals, values)
    return total if _is_int64(total) else (total + (1 << 63)) % (1 << 64) - (1 << 63)


def _whole_mean(totals: list[Any], values: list[Any], count: int) -> float:
    return float(_whole_total(totals, values)) / count


def _whole_total(totals: list[Any], values: list[Any]) -> int:
    """The true sum of whole numbers and of what `_kept` wrote."""
    added: int = sum(values)
    try:
        added += sum(totals)
    except TypeError:  # one is a text
        added += sum(int(total, 16) if isinstance(total, str) else total for total in totals)
    return added


def _kept(total: int) -> int | str:
    """A whole number as MessagePack can hold it: beyond int64 as a text of hexadecimal digits."""
    return total if _is_int64(total) else hex(total)


def _is_int64(value: int) -> bool:
    return -(1 << 63) <= value < 1 << 63


def _sum(place: int, total: Callable[[list[Any], list[Any]], Any]) -> Reader:
    def read(track: Track, first: int, _: list[int], raw: list[Any]) -> object:
        parts, values = track[place][first:], _present(raw)
        return total(parts, values) if parts or values else None

    return read


def _mean(place: int, count: Reader, mean: Callable[[list[Any], list[Any], int], float]) -> Reader:
    def read(track: Track, first: int, times: list[int], raw: list[Any]) -> object:
        number: Any = count(track, first, times, raw)
        return mean(track[place][first:], _present(raw), number) if number else None

    return read


def _extreme(place: int, best: Callable[[list[Any]], Any], plain: Callable[[Any], Any] | None) -> Reader:
    def read(track: Track, first: int, _: list[int], raw: list[Any]) -> object:
        values = track[place][first:] + _present(raw)
        if not values:
            return None
        return best(values) if plain is None else plain(best(values))

    return read


def _first(place: int, plain: Callable[[Any], Any] | None) -> Reader:
    def read(track: Track, first: int, times: list[int], raw: list[Any]) -> object:
        pairs = [tuple(pair) for pair in track[place][first : first + 1]]
        pairs.extend(_pairs(times, raw))
        if not pairs:
            return None
        value = min(pairs)[1]
        return value if plain is None else plain(value)

    return read


def _last(place: int, n: int, plain: Callable[[Any], Any] | None) -> Reader:
    most = max(n, 1)

    def read(track: Track, first: int, times: list[int], raw: list[Any]) -> object:
        pairs = _pairs(times, raw)
        taken = 0
        for tile in reversed(track[place][first:]):
            pairs.extend((time, value) for time, value in tile)
            taken += len(tile)
            if taken >= most:
                break
        if not pairs:
            return None
        pairs.sort()
        values = [value if plain is None else plain(value) for _, value in pairs[-most:]]
        return values if n else values[0]

    return read


def _pairs(times: list[int], raw: list[Any]) -> list[tuple[int, Any]]:
    return [(time, value) for time, value in zip(times, raw, strict=True) if value is not None]


def _present(raw: list[Any]) -> list[Any]:
    return [value for value in raw if value is not None] if raw else raw


_PLAIN: dict[Dtype, Callable[[Any], Any]] = {"bool": bool, "timestamp": from_micros}
"""Whole numbers back to what they stand for."""
