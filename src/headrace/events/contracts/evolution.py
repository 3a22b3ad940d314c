"""The differences between two versions of a contract, and their effect on events, readers and the table.

A change has one of four levels. `compatible`: every good event stays good. `tightens`: some events that were
good are refused from now on. `breaks`: what reads the table may break. `cannot be stored`: the table cannot
hold it. A higher version of the contract accepts tightening and breaking changes; what cannot be stored needs a
field, or a topic, of a new name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

__all__ = ["ContractChange", "Level", "compare_contracts"]

Level = Literal["compatible", "tightens", "breaks", "cannot be stored"]

_WORST_FIRST: tuple[Level, ...] = ("cannot be stored", "breaks", "tightens", "compatible")

# The bounds of each end. Of equal numbers the later bound is the stricter one: 0 itself is not above 0.
_LOWER, _UPPER = (("ge", "gt"), ("min_length",)), (("lt", "le"), ("max_length",))


class ContractChange(NamedTuple):
    """One difference between two versions of a contract.

    Attributes:
        level: its effect.
        field: the field's name, `a.b` for a field of a struct; None for a rule of the whole contract.
        text: the difference in words.
    """

    level: Level
    field: str | None
    text: str


def compare_contracts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[ContractChange]:
    """Compare two descriptions (headrace.events.contracts.description), the worst change first."""
    if old["fingerprint"] == new["fingerprint"]:
        return []
    changes = [
        *_compare_rules(old, new),
        *_compare_times(old, new),
        *_compare_windows(old, new),
        *_compare_checks(old["checks"], new["checks"]),
        *_compare_upcasters(old["upcasters"], new["upcasters"]),
        *_compare_fields(old["fields"], new["fields"], ""),
    ]
    return sorted(
        changes, key=lambda change: (_WORST_FIRST.index(change.level), change.field or "", change.text)
    )


def _level(compatible: bool) -> Level:
    return "compatible" if compatible else "tightens"


def _compare_rules(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[ContractChange]:
    if old["time"] != new["time"]:
        text = f"time= was {old['time']!r}, and the table is partitioned by its day"
        yield ContractChange("cannot be stored", new["time"], text)
    if old["key"] != new["key"]:
        text = f"key= was {old['key']!r}: events of one key lie in two log partitions"
        yield ContractChange("breaks", new["key"], text)
    if old["format"] != new["format"]:
        text = f"events in the format {old['format']} are refused: format={new['format']!r}"
        yield ContractChange("tightens", None, text)
    if old["identity"] != new["identity"]:
        yield ContractChange("tightens", None, "identity= changed: other events count as duplicates")
    if old["coerce"] != new["coerce"]:
        yield ContractChange(_level(new["coerce"]), None, f"coerce={new['coerce']}")
    if old["extra"] != new["extra"]:
        yield ContractChange(_level(new["extra"] != "forbid"), None, f"extra={new['extra']!r}")


def _compare_times(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[ContractChange]:
    if old["timezone"] != new["timezone"]:
        text = f"timezone= was {old['timezone']!r}: the same text now means another instant"
        yield ContractChange("breaks", None, text)
    before, after = old["time_formats"], new["time_formats"]
    removed = [name for name in before if name not in after]
    if removed:
        text = f"time_formats= no longer allows {', '.join(map(repr, removed))}"
        yield ContractChange("tightens", None, text)
    elif [name for name in after if name in before] != before:
        text = "time_formats= has another order: a text that matches two formats now means another instant"
        yield ContractChange("tightens", None, text)
    elif before != after:
        yield ContractChange("compatible", None, "time_formats= allows more formats")


def _compare_windows(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[ContractChange]:
    for name in ("max_ahead", "max_late"):
        if old[name] != new[name]:
            is_wider = _or_endless(old[name]) <= _or_endless(new[name])
            yield ContractChange(_level(is_wider), None, _window_text(name, old[name], new[name]))
    before, after = old["dedup_within"], new["dedup_within"]
    if before != after:
        is_narrower = (before or 0.0) >= (after or 0.0)
        yield ContractChange(_level(is_narrower), None, _window_text("dedup_within", before, after))
    if old["oldest"] != new["oldest"]:
        is_earlier = old["oldest"] > new["oldest"]
        text = f"oldest= is {new['oldest']}, was {old['oldest']}"
        yield ContractChange(_level(is_earlier), None, text)


def _or_endless(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds


def _window_text(name: str, old: float | None, new: float | None) -> str:
    if new is None:
        return f"{name}= was removed"
    return f"{name}= is {new:g} s" if old is None else f"{name}= is {new:g} s, was {old:g} s"


def _compare_checks(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[ContractChange]:
    for struct in sorted(new):
        if old.get(struct) != new[struct]:
            yield ContractChange("tightens", None, f"{struct}.__post_init__ is new or has changed")
    for struct in sorted(old.keys() - new.keys()):
        yield ContractChange("compatible", None, f"{struct}.__post_init__ was removed")


def _compare_upcasters(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> Iterator[ContractChange]:
    before, after = ({upcaster["struct"]: upcaster for upcaster in upcasters} for upcasters in (old, new))
    for struct in sorted(before.keys() | after.keys()):
        if struct not in after:
            yield ContractChange("tightens", None, f"events of {struct} cannot be upcast any more")
        elif struct not in before:
            yield ContractChange("compatible", None, f"events of {struct} are upcast")
        elif before[struct] != after[struct]:
            yield ContractChange("tightens", None, f"the upcaster of {struct} has changed")


def _compare_fields(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> Iterator[ContractChange]:
    for name in sorted(old.keys() | new.keys()):
        path = f"{prefix}{name}"
        if name not in new:
            yield ContractChange("breaks", path, "the field was removed: it is null in new rows")
        elif name in old:
            yield from _compare_field(old[name], new[name], path)
        elif "default" in new[name]:
            yield ContractChange("compatible", path, "a new field: it is null in the rows stored so far")
        else:
            text = "a new field without a default: events without it are refused"
            yield ContractChange("tightens", path, text)


def _compare_field(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[ContractChange]:
    if old["key"] != new["key"]:
        text = f"its name in the event is {new['key']!r}, was {old['key']!r}"
        yield ContractChange("tightens", path, text)
    if old["optional"] != new["optional"]:
        text = "null is allowed" if new["optional"] else "null is refused"
        yield ContractChange(_level(new["optional"]), path, text)
    if "default" in old and "default" not in new:
        text = "it no longer has a default: events without it are refused"
        yield ContractChange("tightens", path, text)
    elif "default" not in old and "default" in new:
        yield ContractChange("compatible", path, "it has a default: events without it are allowed")
    elif old.get("default") != new.get("default"):
        text = f"its default is {new['default']!r}, was {old['default']!r}"
        yield ContractChange("compatible", path, text)
    yield from _compare_types(old["type"], new["type"], path)


def _compare_types(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[ContractChange]:
    same = old["category"] == new["category"]
    if same and old["category"] == "struct":
        yield from _compare_fields(old["fields"], new["fields"], f"{path}.")
        return
    if same and old["category"] == "list":
        yield from _compare_field(old["item"], new["item"], f"{path}[]")
    elif old["stored"] != new["stored"]:
        if _is_wider_decimal(old["stored"], new["stored"]):
            yield ContractChange("compatible", path, f"it has room for more digits: {new['stored']}")
        else:
            text = f"it is stored as {old['stored']} and would become {new['stored']}"
            yield ContractChange("cannot be stored", path, text)
        return
    elif same and old["category"] == "choice":
        yield from _compare_choices(old["values"], new["values"], path)
    elif not same or old.get("of") != new.get("of"):
        looser = new["category"] == "plain" and new.get("of") in ("str", "int") and old["category"] != "json"
        before, after = (type_.get("of") or type_["category"] for type_ in (old, new))
        yield ContractChange(_level(looser), path, f"it is {after}, was {before}")
    yield from _compare_bounds(old.get("bounds", {}), new.get("bounds", {}), path)


def _compare_choices(old: Sequence[Any], new: Sequence[Any], path: str) -> Iterator[ContractChange]:
    removed = [value for value in old if value not in new]
    added = [value for value in new if value not in old]
    if removed:
        yield ContractChange("tightens", path, f"{', '.join(map(repr, removed))} is refused")
    elif added:
        yield ContractChange("compatible", path, f"{', '.join(map(repr, added))} is allowed too")


def _is_wider_decimal(old: str, new: str) -> bool:
    """Whether a decimal column has as many digits after the point, and more before it."""
    before, after = _find_precision(old), _find_precision(new)
    return before is not None and after is not None and before[1] == after[1] and before[0] < after[0]


def _find_precision(stored: str) -> tuple[int, int] | None:
    """Find the precision and scale of an Arrow type as text; None: it is not a decimal."""
    if not stored.startswith("decimal128("):
        return None
    precision, scale = stored.removeprefix("decimal128(").removesuffix(")").split(", ")
    return int(precision), int(scale)


def _compare_bounds(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[ContractChange]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        looser = after is None or _implies(old, name, after)
        text = f"{name} was removed" if after is None else f"{name}={after!r}"
        was = "" if before is None else f", was {before!r}"
        yield ContractChange(_level(looser), path, text + was)


def _implies(bounds: Mapping[str, Any], name: str, limit: Any) -> bool:
    """Whether every value within the bounds satisfies one more bound: what is above 0 is at least 0."""

    def bounds_of(end: Sequence[str]) -> Iterator[tuple[Any, int]]:
        return ((bounds[other], end.index(other)) for other in end if other in bounds)

    for end in _LOWER:
        if name in end:
            return any(bound >= (limit, end.index(name)) for bound in bounds_of(end))
    for end in _UPPER:
        if name in end:
            return any(bound <= (limit, end.index(name)) for bound in bounds_of(end))
    return False
