"""Every kind of view at once: offline and online are what the definitions say, over restarts of ingest."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from msgspec.structs import replace
from tests.features.feast.everything import EVENTS, FEATURES, TABLES
from tests.features.views import exact
from tests.features.window_oracle import expect_value

from headrace import lake as lakes
from headrace import log as logs
from headrace.config.settings import load_settings
from headrace.events.ingest.ingest import Ingest
from headrace.features import online
from headrace.features.checks.recompute import ServedPrediction, recompute
from headrace.features.feast.compiler import collect_objects
from headrace.features.feast.views import (
    add_key_dtypes,
    compile_entity_keys,
    compile_stored_view,
    rename_view,
)
from headrace.features.offline.point_in_time import MOMENT, join
from headrace.features.online.backfill import fill
from headrace.features.online.follow import OnlineSink
from headrace.features.plan import FeaturePlan, FeatureRef
from headrace.kernel.properties import HISTORY
from headrace.kernel.time import from_micros, now_micros
from headrace.projects.project import Project, load_project
from headrace.tables.build import build_table

BERLIN = ZoneInfo("Europe/Berlin")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
USERS, PLACES = [1, 2, -9, 2**63 - 1], ["", "x", "é"]
ASKED = [
    {"user_id": user, "shop": shop, "peer_id": peer}
    for user, shop, peer in [(1, "back", -9), (2**63 - 1, "x", 3), (3, "", 1)]
]
DAY = timedelta(days=1)
SPANS = {  # window, hop, offset
    "1h": (timedelta(hours=1), timedelta(minutes=5), None),
    "1d": (DAY, timedelta(hours=1), None),
    "40d": (40 * DAY, DAY, None),
    "1d_7d": (DAY, timedelta(hours=1), 7 * DAY),
    "90m_5m": (timedelta(minutes=90), timedelta(minutes=5), timedelta(minutes=5)),
    "ever": (None, timedelta(1), None),
}
FUNCTIONS = {
    **{name: (name, 0) for name in ("count", "count_distinct", "approx_count_distinct", "count_if")},
    **{name: (name, 0) for name in ("sum", "mean", "var", "std", "min", "max", "first", "last")},
    "avg": ("mean", 0),
    "variance": ("var", 0),
    "stddev": ("std", 0),
    "percentile_50": ("percentile", 50),
    "percentile_99": ("percentile", 99),
    "top_k_2": ("top_k", 2),
    "first_2": ("first_n", 2),
    "last_3": ("last_n", 3),
}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    package = tmp_path / "everything"
    package.mkdir()
    (tmp_path / "headrace.toml").write_text('[project]\nname = "everything"\n')
    for name, text in (("__init__", ""), ("events", EVENTS), ("tables", TABLES), ("features", FEATURES)):
        (package / f"{name}.py").write_text(text)
    yield load_project(load_settings(tmp_path))
    sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "everything"]:
        del sys.modules[name]


def make_plan(project: Project) -> FeaturePlan:
    objects = collect_objects(project)
    taken = [(objects.views[p.name], p) for p in objects.services["everything"].feature_view_projections]
    entities = compile_entity_keys(taken, objects.entities, None, str)
    views = tuple(
        add_key_dtypes(rename_view(compile_stored_view(view, objects.entities, "here"), p, "here"), entities)
        for view, p in taken
    )
    features = tuple(
        FeatureRef(view.name, field.name, field.dtype) for view in views for field in view.features
    )
    return FeaturePlan("", entities, views, features)


def make_deeds(seed: int, count: int, now: datetime) -> list[dict[str, Any]]:
    """Random deeds: at hop edges, at the end of summer time, of one time, late, early, with huge values."""
    chance = random.Random(seed)
    begin = datetime(2026, 10, 24, 23, 55, tzinfo=UTC)
    edge = now.replace(minute=0, second=0, microsecond=0)
    times = [
        lambda: now - timedelta(seconds=chance.randrange(3 * 86_400)),
        lambda: now - timedelta(microseconds=chance.randrange(1, 50 * 86_400_000_000)),
        lambda: begin + chance.randrange(40) * timedelta(minutes=5),
        lambda: edge - chance.choice([0, 1, 6, 24, 7 * 24, 40 * 24]) * timedelta(hours=1),
        lambda: edge - timedelta(days=7, microseconds=chance.choice([0, 1])),
        lambda: now + timedelta(minutes=30),
    ]
    numbers = [None, 0, -1, 7, 7, 2**63 - 1, -(2**63), 2**53 + 1, -(2**31) - 1]
    amounts = [None, 0.1, 0.2, -0.0, 1e308, 1.7e308, -1.7e308, 5e-324, -19.99, 1e16, 3.5e38]
    prices = [None, "0", "0.1", "-0.000000001", "99999999999999999999999999999.999999999", "-7.25", "7.250"]
    fees = [None, "1.10", "1.1", "-123456789012345678901234567890.12", "1E+400", "0.30000000000000004"]
    days = [None, "2026-10-25", "0001-01-01", "9999-12-31", "1969-12-31"]
    instants = [None, "2026-10-25T02:30:00+01:00", "2026-10-25T02:30:00+02:00", "1969-12-31T23:59:59.999999Z"]
    return [
        {
            "at": chance.choices(times, [4, 4, 3, 3, 1, 1])[0]().isoformat(),
            "user_id": chance.choice(USERS),
            "place": chance.choice(PLACES),
            "peer_id": chance.choice([None, *USERS]),
            "number": chance.choice(numbers),
            "amount": chance.choice(amounts),
            "price": chance.choice(prices),
            "fee": chance.choice(fees),
            "flag": chance.choice([None, True, False]),
            "since": chance.choice(instants),
            "day": chance.choice(days),
            "kind": chance.choice([None, "a", "b", "é"]),
            "tags": chance.choice([None, [], ["x"], ["é", "", "x"]]),
        }
        for _ in range(count)
    ]


class Deeds:
    """What was sent, with the values that features are made of, and from when each deed is known."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, deeds: list[dict[str, Any]], known: list[datetime]) -> None:
        for deed, instant in zip(deeds, known, strict=True):
            at = datetime.fromisoformat(deed["at"])
            if at.tzinfo is None:
                at = at.replace(tzinfo=BERLIN, fold=0)
            since = deed["since"] and datetime.fromisoformat(deed["since"]).astimezone(UTC)
            day = deed["day"] and datetime.combine(date.fromisoformat(deed["day"]), datetime.min.time(), UTC)
            fee, price = (deed[name] and float(Decimal(deed[name])) for name in ("fee", "price"))
            values = {"at": at.astimezone(UTC), "since": since, "day": day, "fee": fee, "price": price}
            self.rows.append(deed | values | {"known": instant, "made": len(self.rows)})

    def window(self, view: str, feature: str, keys: dict[str, Any], t: datetime, known: datetime) -> Any:
        """A feature of a windowed view, by its name."""
        span = next(name for name in sorted(SPANS, key=len, reverse=True) if feature.endswith(f"_{name}"))
        column, _, function = feature.removesuffix(f"_{span}").partition("_")
        rows = [row for row in self.rows if row["user_id"] == keys["user_id"] and row["known"] < known]
        if view == "deeds":
            values = [(row["at"], row[column]) for row in rows]
        else:
            values = self._sales(column, rows, keys["shop"])
        window, hop, offset = SPANS[span]
        name, n = FUNCTIONS[function]
        value = expect_value(
            name,
            n,
            window and micros(window),
            micros(hop),
            micros(t - EPOCH),
            [(micros(at - EPOCH), value) for at, value in values],
            micros(offset) if offset else 0,
        )
        return plain(value)

    def _sales(self, column: str, rows: list[dict[str, Any]], shop: str) -> list[tuple[datetime, Any]]:
        pairs = []
        for row in rows:
            if row["price"] is None:
                continue
            small = None if row["number"] is None else row["number"] % 1000
            value = {"price": row["price"], "small": small, "day": row["day"]}[column]
            if row["place"] == shop:
                pairs.append((row["at"], value))
            if shop == "back":
                pairs.append((row["at"], -value if column == "price" else value))
        return pairs

    def profile(self, user: int, t: datetime) -> list[Any]:
        rows = [r for r in self.rows if r["user_id"] == user and t - 30 * DAY <= r["at"] <= t]
        if not rows:
            return [None] * 8
        row = max(rows, key=lambda row: (row["at"], row["made"]))
        small = row["number"] if row["number"] is not None and -(2**31) <= row["number"] < 2**31 else None
        half = (
            None if row["amount"] is None else pl.Series([row["amount"]], dtype=pl.Float64).cast(pl.Float32)[0]
        )
        return [row["tags"], row["since"], row["day"], row["price"], small, half, row["kind"], row["flag"]]

    def market(self, t: datetime) -> list[Any]:
        """Of equal times, the row with the greatest values; null is the smallest."""
        rows = [
            (r["at"], r["number"] is not None, r["number"] or 0, r["kind"] is not None, r["kind"] or "", r)
            for r in self.rows
            if r["at"] <= t
        ]
        if not rows:
            return [None, None]
        row = max(rows, key=lambda row: row[:5])[5]
        return [row["number"], row["kind"]]

    def expect(self, plan: FeaturePlan, keys: dict[str, Any], t: datetime, known: datetime) -> dict[str, Any]:
        """Every feature at a moment, of the deeds known before another."""
        expected: dict[str, Any] = {}
        as_of = {
            "own": lambda: self.profile(keys["user_id"], t),
            "peer": lambda: self.profile(keys["peer_id"], t),
        }
        as_of["all_places"] = lambda: self.market(t)
        for view in plan.stored:
            names = [field.name for field in view.features]
            if view.name in as_of:
                values = as_of[view.name]()
            else:
                values = [self.window(view.name, name, keys, t, known) for name in names]
            expected |= {f"{view.name}__{name}": value for name, value in zip(names, values, strict=True)}
        return expected


def micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def plain(value: Any) -> Any:
    """-0.0 is 0.0; an instant that was counted as microseconds is one."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value


def differences(expected: dict[str, Any], got: dict[str, Any]) -> dict[str, tuple[str, str]]:
    assert list(got) == list(expected)
    return {
        name: (exact(value), exact(got[name]))
        for name, value in expected.items()
        if exact(value) != exact(got[name])
    }


def test_every_feature_is_what_its_definition_says(project: Project) -> None:
    plan, deeds = make_plan(project), Deeds()
    lake, log = lakes.open(project.settings), logs.open(project.settings.log.url)
    contract = project.contract("deeds")
    log.create("deeds")
    now = datetime.now(UTC)
    with closing(log), closing(online.open(project.settings)) as store:
        for number, size in enumerate((120, 40, 1, 30)):
            batch = make_deeds(number, size, now)
            if number == 1:
                batch[0]["at"] = batch[1]["at"] = "2026-10-25 02:30:00"  # which the clocks of Berlin show twice
            raw = [json.dumps(deed).encode() for deed in batch]
            log.append("deeds", raw, headers=[None if number else {HISTORY: b"1"}] * size)
            ingestion = Ingest(contract, log, lake, [OnlineSink(project, contract, store, lake)])
            ingestion.run(True, threading.Event())
            stored = lake.table("deeds").scan().sort("_log_offset").collect()
            assert stored["_valid"].all(), stored.filter(~pl.col("_valid"))
            deeds.add(batch, stored["_known_at"].to_list()[-size:])
            for name in ("paid", "profiles", "market"):
                build_table(project, lake, project.tables[name], code="one")
            fill(project, lake, plan, store)
            check_online(project, lake, plan, deeds, store)
    check_offline(lake, plan, deeds, now)


def check_online(
    project: Project, lake: lakes.Lake, plan: FeaturePlan, deeds: Deeds, store: online.OnlineStore
) -> None:
    at = now_micros()
    result = store.lookup(plan, ASKED, at)
    columns = [feature.column for feature in plan.features]
    types = {feature.column: feature.dtype for feature in plan.features}
    served = []
    for keys, row, positions in zip(ASKED, result.rows, result.positions, strict=True):
        values = {name: as_instants(value, types[name]) for name, value in zip(columns, row, strict=True)}
        t = from_micros(at)
        assert differences(deeds.expect(plan, keys, t, t + DAY), values) == {}, keys
        served.append(ServedPrediction("", at, keys, {}, positions))
    for prediction, again, row in zip(
        served, recompute(project, lake, for_matrix(plan), served), result.rows, strict=True
    ):
        assert again.failures == {}
        values = {name: as_instants(value, types[name]) for name, value in zip(columns, row, strict=True)}
        assert differences(values, again.features) == {}, prediction.keys


def for_matrix(plan: FeaturePlan) -> FeaturePlan:
    """The plan with the features that a model's matrix can hold."""
    plain = ("int64", "float64", "bool", "string")
    return replace(plan, features=tuple(feature for feature in plan.features if feature.dtype in plain))


def as_instants(value: Any, dtype: str) -> Any:
    """An instant that the store has as microseconds."""
    if "timestamp" in dtype and isinstance(value, list):
        return [as_instants(item, dtype) for item in value]
    return from_micros(value) if "timestamp" in dtype and isinstance(value, int) else value


def check_offline(lake: lakes.Lake, plan: FeaturePlan, deeds: Deeds, now: datetime) -> None:
    moments = [now, now - timedelta(hours=6), now - 33 * DAY, datetime(2026, 10, 25, 1, 0, tzinfo=UTC)]
    moments += [row["at"] for row in deeds.rows[:2]]
    asked = [(keys, t) for t in moments for keys in ASKED]
    labels = pl.DataFrame([keys for keys, _ in asked]).with_columns(
        pl.Series(MOMENT, [t for _, t in asked], pl.Datetime("us", "UTC")).dt.convert_time_zone("Europe/Berlin")
    )
    joined = join(labels, plan, lambda name: valid(lake, name))
    columns = [feature.column for feature in plan.features]
    for (keys, t), row in zip(asked, joined.select(columns).iter_rows(named=True), strict=True):
        assert differences(deeds.expect(plan, keys, t, t), row) == {}, (keys, t)


def valid(lake: lakes.Lake, name: str) -> pl.LazyFrame:
    rows = lake.table(name).scan()
    return rows.filter("_valid") if "_valid" in rows.collect_schema() else rows
