"""How one contract differs from another, and what that means for events, readers and the table.

A change is compatible; or it tightens: some events that were good are refused from now on; or it breaks
what reads the table; or it cannot be stored in it. Tightening and breaking are accepted by a higher
version; what cannot be stored needs a field, or a topic, of a new name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

__all__ = ["ContractChange", "Level", "compare_contracts"]

Level = Literal["compatible", "tightens", "breaks", "cannot be stored"]

# The bounds of one end; of equal numbers the later one lies higher: 0 itself is not above 0.
_LOWER, _UPPER = (("ge", "gt"), ("min_length",)), (("lt", "le"), ("max_length",))


class ContractChange(NamedTuple):
    """One difference.

    Attributes:
        level: what it means.
        field: the field's name, `a.b` within a struct; None where it is a rule of the whole contract.
        what: in words.
    """

    level: Level
    field: str | None
    what: str


def compare_contracts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[ContractChange]:
    """The changes from one description (headrace.events.contracts.description) to another, worst first."""
    if old["fingerprint"] == new["fingerprint"]:
        return []
    found = [*_rules(old, new), *_of_fields(old["fields"], new["fields"], "")]
    worst = ("cannot be stored", "breaks", "tightens", "compatible")
    return sorted(found, key=lambda one: (worst.index(one.level), one.field or "", one.what))


def _rules(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[ContractChange]:
    def differ(name: str) -> bool:
        return bool(old.get(name) != new.get(name))

    if differ("time"):
        what = f"time= was {old['time']!r}, by whose day the table is partitioned"
        yield ContractChange("cannot be stored", new["time"], what)
    if differ("key"):
        what = f"key= was {old['key']!r}: events of one key lie in two log partitions"
        yield ContractChange("breaks", new["key"], what)
    if differ("timezone"):
        yield ContractChange("breaks", None, f"timezone= was {old['timezone']!r}: the same text is another instant now")
    if differ("format"):
        yield ContractChange(
            "tightens", None, f"events written as {old['format']} are refused: format={new['format']!r}"
        )
    if differ("identity"):
        yield ContractChange("tightens", None, "identity= is another: other events count as duplicates")
    for name, shorter in (("max_ahead", "tightens"), ("max_late", "tightens"), ("dedup_within", "compatible")):
        if differ(name):
            yield _window(name, old[name], new[name], shorter == "tightens")
    if "oldest" in old and differ("oldest"):
        level: Level = "tightens" if old["oldest"] < new["oldest"] else "compatible"
        yield ContractChange(level, None, f"oldest= is {new['oldest']}, was {old['oldest']}")
    gone = [one for one in old["time_formats"] if one not in new["time_formats"]]
    if gone:
        yield ContractChange("tightens", None, f"time_formats= takes no {', '.join(map(repr, gone))} any more")
    elif [one for one in new["time_formats"] if one in old["time_formats"]] != old["time_formats"]:
        yield ContractChange(
            "tightens", None, "time_formats= has another order: a text that fits two is another instant now"
        )
    elif differ("time_formats"):
        yield ContractChange("compatible", None, "time_formats= takes more spellings")
    if differ("coerce"):
        yield ContractChange("compatible" if new["coerce"] else "tightens", None, f"coerce={new['coerce']}")
    if differ("extra"):
        yield ContractChange("tightens" if new["extra"] == "forbid" else "compatible", None, f"extra={new['extra']!r}")
    for struct in sorted(new["checks"]):
        if old["checks"].get(struct) != new["checks"][struct]:
            yield ContractChange("tightens", None, f"{struct}.__post_init__ is new or another")
    for struct in sorted(old["checks"].keys() - new["checks"].keys()):
        yield ContractChange("compatible", None, f"{struct}.__post_init__ checks no more")
    yield from _upcasters(old["upcasters"], new["upcasters"])


def _window(name: str, old: float | None, new: float | None, shorter_tightens: bool) -> ContractChange:
    """A duration that was changed; None is without end, and for `dedup_within` it is none at all."""
    endless = float("inf") if shorter_tightens else 0.0
    before, after = (endless if one is None else one for one in (old, new))
    tightens = after < before if shorter_tightens else after > before
    was = "" if old is None else f", was {old:g} s"
    said = "is not set any more" if new is None else f"is {new:g} s{was}"
    return ContractChange("tightens" if tightens else "compatible", None, f"{name}= {said}")


def _upcasters(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[ContractChange]:
    then, now = ({one["struct"]: one for one in each} for each in (old, new))
    for struct in sorted(then.keys() | now.keys()):
        if struct not in now:
            yield ContractChange("tightens", None, f"events of {struct} are no longer upcast")
        elif struct not in then:
            yield ContractChange("compatible", None, f"events of {struct} are upcast")
        elif then[struct] != now[struct]:
            yield ContractChange("tightens", None, f"events of {struct} are upcast by other code")


def _of_fields(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[ContractChange]:
    for name in sorted(old.keys() | new.keys()):
        here = f"{path}{name}"
        if name not in new:
            yield ContractChange("breaks", here, "the field is gone: it is null in new rows")
        elif name not in old:
            if "default" in new[name]:
                yield ContractChange("compatible", here, "a new field: it is null in the rows that are there")
            else:
                yield ContractChange("tightens", here, "a new field without a default: events without it are refused")
        else:
            yield from _field(old[name], new[name], here)


def _field(old: Mapping[str, Any], new: Mapping[str, Any], here: str) -> Iterator[ContractChange]:
    if old["key"] != new["key"]:
        yield ContractChange("tightens", here, f"it is read from {new['key']!r} in the event, was {old['key']!r}")
    if old["optional"] != new["optional"]:
        what = "null is taken" if new["optional"] else "null is refused"
        yield ContractChange("compatible" if new["optional"] else "tightens", here, what)
    if "default" in old and "default" not in new:
        yield ContractChange("tightens", here, "it has no default any more: events without it are refused")
    elif "default" not in old and "default" in new:
        yield ContractChange("compatible", here, "it has a default: events without it are taken")
    elif old.get("default") != new.get("default"):
        yield ContractChange("compatible", here, f"its default is {new['default']!r}, was {old['default']!r}")
    yield from _type(old["type"], new["type"], here)


def _type(old: Mapping[str, Any], new: Mapping[str, Any], here: str) -> Iterator[ContractChange]:
    same = old["category"] == new["category"]
    if same and old["category"] == "struct":
        yield from _of_fields(old["fields"], new["fields"], f"{here}.")
        return
    if same and old["category"] == "list":
        yield from _field(old["item"], new["item"], f"{here}[]")
    elif old["stored"] != new["stored"]:
        if _widens(old["stored"], new["stored"]):
            yield ContractChange("compatible", here, f"it has room for more digits: {new['stored']}")
        else:
            what = f"it is stored as {old['stored']} and would become {new['stored']}"
            yield ContractChange("cannot be stored", here, what)
        return
    elif same and old["category"] == "choice":
        gone = [one for one in old["values"] if one not in new["values"]]
        if gone:
            yield ContractChange("tightens", here, f"{', '.join(map(repr, gone))} is refused")
        elif old["values"] != new["values"]:
            more = [one for one in new["values"] if one not in old["values"]]
            yield ContractChange("compatible", here, f"{', '.join(map(repr, more))} is taken too")
    elif not same or old.get("of") != new.get("of"):
        looser = new["category"] == "plain" and new.get("of") in ("str", "int") and old["category"] != "json"
        names = [one.get("of") or one["category"] for one in (old, new)]
        yield ContractChange("compatible" if looser else "tightens", here, f"it is {names[1]}, was {names[0]}")
    yield from _bounds(old.get("bounds", {}), new.get("bounds", {}), here)


def _widens(old: str, new: str) -> bool:
    """Whether a decimal column has the same digits behind the point and more before it."""

    def digits(stored: str) -> tuple[int, int] | None:
        if not stored.startswith("decimal128("):
            return None
        precision, scale = stored.removeprefix("decimal128(").removesuffix(")").split(", ")
        return int(precision), int(scale)

    then, now = digits(old), digits(new)
    return then is not None and now is not None and then[1] == now[1] and then[0] < now[0]


def _bounds(old: Mapping[str, Any], new: Mapping[str, Any], here: str) -> Iterator[ContractChange]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        looser = after is None or _implies(old, name, after)
        said = f"no {name} any more" if after is None else f"{name}={after!r}"
        was = "" if before is None else f", was {before!r}"
        yield ContractChange("compatible" if looser else "tightens", here, said + was)


def _implies(bounds: Mapping[str, Any], name: str, limit: Any) -> bool:
    """Whether whatever keeps the bounds keeps this one too: all above 0 is at least 0."""
    for end in _LOWER:
        if name in end:
            return any(
                (bounds[one], end.index(one)) >= (limit, end.index(name)) for one in end if one in bounds
            )
    for end in _UPPER:
        if name in end:
            return any(
                (bounds[one], end.index(one)) <= (limit, end.index(name)) for one in end if one in bounds
            )
    return False
