"""Changes of a contract: their levels, and how the topic's table takes them."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import attrs
import pytest

from headrace import Meta, Precision, Struct, event
from headrace.declare.event import Contract, contract_of
from headrace.events.contracts.description import describe_contract
from headrace.events.contracts.evolution import compare_contracts
from headrace.events.ingest.adoption import adopt_contract
from headrace.events.ingest.ingest import Ingest
from headrace.kernel.errors import Conflict, Refused
from headrace.kernel.properties import CONTRACT
from headrace.lake import Lake
from headrace.log import Log


class Place(Struct):
    city: str


class Visit(Struct):
    at: datetime
    user: int
    page: Literal["home", "shop"]
    price: Annotated[float, Meta(gt=0, le=100)] | None = None
    total: Annotated[Decimal, Precision(9, 2)] | None = None
    place: Place | None = None
    places: list[Place] | None = None


def declare(struct: type[Struct], **options: Any) -> Contract:
    class Own(struct):  # type: ignore[valid-type,misc]
        """A docstring does not change the contract."""

    contract = contract_of(event(**{"topic": "visits", "time": "at", **options})(Own))
    assert contract is not None
    return contract


VISIT = declare(Visit)


def levels(old: Contract, new: Contract) -> list[tuple[str, str | None]]:
    return [
        (change.level, change.field)
        for change in compare_contracts(describe_contract(old), describe_contract(new))
    ]


class Page(Enum):
    SHOP = "shop"
    HOME = "home"


class Reordered(Struct):
    """Visit, written differently."""

    user: int  # a comment
    page: Page
    at: datetime
    places: list[Place] | None = None
    total: Annotated[Decimal, Precision(9, 2)] | None = None
    price: Annotated[float, Meta(le=100), Meta(gt=0)] | None = None
    place: Place | None = None


def test_order_comments_and_place_do_not_count() -> None:
    other = declare(Reordered, version=7, partitions=9)
    assert describe_contract(other)["fingerprint"] == describe_contract(VISIT)["fingerprint"]
    assert levels(VISIT, other) == []
    assert json.loads(json.dumps(describe_contract(VISIT))) == describe_contract(VISIT)


class City(Struct):
    city: str
    zip: str | None = None


class Far(Struct):
    city: str
    distance: int


def like(**annotations: Any) -> Contract:
    """Visit with other types of some fields; a field of type `...` is left out."""
    fields = {**Visit.__annotations__, **annotations}
    defaults = {name: None for name in fields if name not in ("at", "user", "page", "fresh")}
    names = [name for name, type_ in fields.items() if type_ is not ...]
    body = {
        "__annotations__": {name: fields[name] for name in names},
        "__module__": __name__,
        **{name: None for name in names if name in defaults},
    }
    return declare(type("Visit", (Struct,), body, kw_only=True))


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (like(more=str | None), ("compatible", "more")),
        (like(fresh=int), ("tightens", "fresh")),
        (like(price=...), ("breaks", "price")),
        (like(page=Literal["home", "shop", "cart"]), ("compatible", "page")),
        (like(page=Literal["home"]), ("tightens", "page")),
        (like(page=str), ("compatible", "page")),
        (like(user=float), ("cannot be stored", "user")),
        (like(user=Annotated[int, Meta(ge=0)]), ("tightens", "user")),
        (like(user=int | None), ("compatible", "user")),
        (like(price=Annotated[float, Meta(gt=1, le=100)] | None), ("tightens", "price")),
        (like(price=Annotated[float, Meta(gt=0)] | None), ("compatible", "price")),
        (like(price=Annotated[float, Meta(gt=0, le=200)] | None), ("compatible", "price")),
        (like(total=Annotated[Decimal, Precision(12, 2)] | None), ("compatible", "total")),
        (like(total=Annotated[Decimal, Precision(12, 3)] | None), ("cannot be stored", "total")),
        (like(place=City | None), ("compatible", "place.zip")),
        (like(place=Far | None), ("tightens", "place.distance")),
        (like(places=list[City] | None), ("compatible", "places[].zip")),
        (like(place=str | None), ("cannot be stored", "place")),
        (declare(Visit, key="user"), ("breaks", "user")),
        (declare(Visit, coerce=True), ("compatible", None)),
        (declare(Visit, extra="forbid"), ("tightens", None)),
        (declare(Visit, max_late="1d"), ("tightens", None)),
        (declare(Visit, oldest="1970-01-01T00:00:01Z"), ("tightens", None)),
        (declare(Visit, oldest="1900-01-01"), ("compatible", None)),
        (declare(Visit, max_ahead="1m"), ("tightens", None)),
        (declare(Visit, max_ahead="1h"), ("compatible", None)),
        (declare(Visit, identity=["user"]), ("tightens", None)),
        (declare(Visit, timezone="Europe/Paris"), ("breaks", None)),
        (declare(Visit, format="connect"), ("tightens", None)),
        (declare(Visit, time_formats=["rfc3339", "epoch_ms"]), ("compatible", None)),
        (declare(Visit, time_formats=["epoch_ms"]), ("tightens", None)),
        (declare(Visit, upcasters={Place: lambda place: place}), ("compatible", None)),
    ],
    ids=lambda value: "" if isinstance(value, Contract) else f"{value[1]} {value[0]}",
)
def test_each_change_has_its_level(new: Contract, expected: tuple[str, str | None]) -> None:
    assert levels(VISIT, new) == [expected]


@pytest.mark.parametrize(
    ("old", "new", "level"),
    [
        (Meta(gt=0), Meta(ge=0), "compatible"),
        (Meta(gt=0), Meta(ge=-1), "compatible"),
        (Meta(ge=0), Meta(gt=-1), "compatible"),
        (Meta(lt=9), Meta(le=9), "compatible"),
        (Meta(le=9), Meta(lt=10), "compatible"),
        (Meta(ge=0), Meta(gt=0), "tightens"),
        (Meta(gt=0), Meta(ge=1), "tightens"),
        (Meta(le=9), Meta(lt=9), "tightens"),
        (Meta(lt=9), Meta(le=8), "tightens"),
    ],
)
def test_inclusive_and_exclusive_bounds_are_compared(old: Meta, new: Meta, level: str) -> None:
    before, after = (like(price=Annotated[float, bound] | None) for bound in (old, new))
    assert ("tightens" in dict(levels(before, after))) == (level == "tightens")


def test_a_post_init_counts_by_its_code() -> None:
    class Checked(Visit):
        def __post_init__(self) -> None:
            """Docstrings do not count."""
            if self.user == 1:
                raise ValueError

    assert levels(VISIT, declare(Checked)) == [("tightens", None)]
    assert levels(declare(Checked), VISIT) == [("compatible", None)]


def make_event(**fields: Any) -> bytes:
    return json.dumps({"at": "2026-03-01T12:00:00Z", "user": 1, "page": "home", **fields}).encode()


def ingest(contract: Contract, log: Log, lake: Lake) -> list[dict[str, Any]]:
    """Ingest the topic to its end, and return the rows of its table."""
    Ingest(contract, log, lake).run(until_end=True, stop=threading.Event())
    return lake.table("visits").scan().sort("_log_offset").collect().to_dicts()


def test_a_compatible_change_evolves_the_table(events_log: Log, lake: Lake) -> None:
    events_log.create("visits")
    events_log.append("visits", [make_event(place={"city": "Rom"}, places=[{"city": "Bonn"}])])
    old = Ingest(VISIT, events_log, lake)
    assert old.step() is not None
    new = like(
        place=City | None,
        places=list[City] | None,
        total=Annotated[Decimal, Precision(12, 2)] | None,
        more=str | None,
    )
    places = {"place": {"city": "Rom", "zip": "1"}, "places": [{"city": "Ulm", "zip": "2"}]}
    fresh = make_event(**places, total="1.50", more="x")
    events_log.append("visits", [fresh])
    rows = ingest(new, events_log, lake)
    assert [row["place"] for row in rows] == [{"city": "Rom", "zip": None}, {"city": "Rom", "zip": "1"}]
    assert [row["places"] for row in rows] == [[{"city": "Bonn", "zip": None}], [{"city": "Ulm", "zip": "2"}]]
    assert [row["more"] for row in rows] == [None, "x"]
    assert [row["total"] for row in rows] == [None, Decimal("1.50")]
    # An ingest with the old contract runs on, and stores the new field in _extra.
    events_log.append("visits", [fresh])
    with pytest.raises(Conflict):
        old.step()
    assert old.step() is not None
    rows = lake.table("visits").scan().sort("_log_offset").collect().to_dicts()
    assert rows[-1]["more"] is None
    assert json.loads(rows[-1]["_extra"])["more"] == "x"
    assert [row["_valid"] for row in rows] == [True] * len(rows)


def test_an_incompatible_change_needs_a_higher_version_or_a_new_name(events_log: Log, lake: Lake) -> None:
    adopt_contract(VISIT, lake)
    tighter = like(page=Literal["home"])
    with pytest.raises(Refused, match="but its version has not") as error:
        Ingest(tighter, events_log, lake)
    assert "version=2" in str(error.value)
    assert "page: 'shop' is refused" in str(error.value)
    with pytest.raises(Refused, match="cannot hold the events of the changed contract"):
        adopt_contract(attrs.evolve(like(user=float), version=2), lake)
    assert set(lake.table("visits").schema().names) >= {"user", "price"}
    accepted = attrs.evolve(like(page=Literal["home"], price=...), version=2)
    adopt_contract(accepted, lake)
    with pytest.raises(Refused, match="seen version 2") as error:
        adopt_contract(VISIT, lake)
    assert "version=3" in str(error.value)
    adopt_contract(attrs.evolve(accepted, version=1), lake)  # the same contract with a lower version
    adopt_contract(attrs.evolve(VISIT, version=3), lake)


def test_processes_that_start_at_once_agree(lake: Lake) -> None:
    new = like(place=City | None, more=str | None)
    adopt_contract(VISIT, lake)
    with ThreadPoolExecutor(6) as threads:
        tables = list(threads.map(lambda _: adopt_contract(new, lake), range(6)))
    stored = json.loads(tables[0].property(CONTRACT) or "")
    assert stored == json.loads(json.dumps(describe_contract(new)))
    assert tables[0].schema().names.count("more") == 1


class VisitV1(Struct):
    when: datetime
    who: str


class VisitV2(Struct):
    at: datetime
    user: int


def from_v1(old: VisitV1) -> Any:
    if old.who == "nobody":
        raise KeyError("nobody")
    return declared_visit(at=old.when, user=int(old.who), page="home" if old.when.year > 2000 else "shop")


def from_v2(old: VisitV2) -> Any:
    return (
        {}
        if old.user == 0
        else declared_visit(at=old.at, user=old.user, page="none" if old.user < 0 else "shop")
    )


UPCAST = declare(Visit, version=2, upcasters={VisitV2: from_v2, VisitV1: from_v1})
declared_visit: Any = UPCAST.struct


def test_older_events_are_upcast_and_judged(events_log: Log, lake: Lake) -> None:
    v1 = {"when": "2026-03-01T12:00:00+01:00", "who": "7"}
    values = [
        make_event(),
        json.dumps(v1).encode(),
        b'{"at": "2026-03-01T12:00:00Z", "user": 8, "colour": "red"}',
        json.dumps({**v1, "who": "nobody"}).encode(),
        b'{"at": "2026-03-01T12:00:00Z", "user": 0}',
        b'{"at": "2026-03-01T12:00:00Z", "user": -1}',
        json.dumps({**v1, "when": "soon"}).encode(),
        b'{"other": 1}',
    ]
    events_log.create("visits")
    events_log.append("visits", values)
    Ingest(VISIT, events_log, lake).step()
    rows = lake.table("visits").scan().sort("_log_offset").collect().to_dicts()
    assert [row["_valid"] for row in rows] == [True] + [False] * 7
    events_log.append("visits", values)
    rows = ingest(UPCAST, events_log, lake)[len(values) :]
    assert [row["_code"] for row in rows] == [
        None,
        None,
        None,
        "upcast_failed",
        "upcast_failed",
        "upcast_failed",
        "bad_time",
        "missing",
    ]
    assert [(row["user"], row["page"], row["_extra"]) for row in rows[1:3]] == [
        (7, "home", None),
        (8, "shop", '{"colour":"red"}'),
    ]
    assert rows[1]["at"] == datetime(2026, 3, 1, 11, tzinfo=UTC)
    assert "KeyError" in rows[3]["_reason"]
    assert rows[5]["_field"] == "page"


def test_the_time_of_an_upcast_event_is_not_parsed_again(events_log: Log, lake: Lake) -> None:
    local = attrs.evolve(UPCAST, time_formats=("%d.%m.%Y %H:%M",), timezone="Europe/Paris")
    events_log.create("visits")
    events_log.append("visits", [b'{"when": "01.03.2026 12:00", "who": "7"}'])
    (row,) = ingest(local, events_log, lake)
    assert (row["_code"], row["at"]) == (None, datetime(2026, 3, 1, 11, tzinfo=UTC))
