"""Features over a database's table are its rows, as an oracle has them: offline, online and in each check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.events.customers import NOON
from tests.features.database_history import History, make_history, rows_at
from tests.tables.changes_shop import Shop

from headrace.config.settings import make_settings
from headrace.features import online
from headrace.features.checks.recompute import ServedPrediction, recompute
from headrace.features.checks.skew import SkewCheck
from headrace.features.offline.compute.local import LocalCompute
from headrace.features.offline.parts import join_in_pieces
from headrace.features.offline.point_in_time import join
from headrace.features.online import RowPosition
from headrace.features.online.backfill import fill
from headrace.features.plan import AsOfView, EntityKey, FeaturePlan, FeatureRef, PlanField
from headrace.flows.trace.evidence import find_row
from headrace.kernel.time import from_micros, now_micros

FIELDS = (PlanField("name", "string"), PlanField("balance", "float64"))
KEYS = range(-1, 7)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "__init__.py").write_text("")
    shop = Shop(tmp_path)
    yield shop
    shop.log.close()


def make_plan(shop: Shop) -> FeaturePlan:
    """A view of the rows at each moment, and one of the current rows."""
    then = AsOfView("then", ("id",), shop.contract.table, "_changed_at", FIELDS)
    now = AsOfView("now", ("id",), shop.table.name, "_changed_at", FIELDS, is_current=True)
    features = tuple(FeatureRef(view.name, f.name, f.dtype) for view in (then, now) for f in FIELDS)
    return FeaturePlan("m", (EntityKey("customer", "id", "int64"),), (then, now), features)


def moment(second: int) -> int:
    return NOON + second * 1_000_000


def features_of(values: tuple[str | None, str | None] | None) -> list[Any]:
    """The features of a row of the database; of no row, nulls."""
    name, balance = values or (None, None)
    return [name, None if balance is None else float(balance)]


def serve(store: online.OnlineStore, plan: FeaturePlan) -> list[ServedPrediction]:
    at = now_micros()
    result = store.lookup(plan, [{"id": key} for key in KEYS], at)
    columns = [feature.column for feature in plan.features]
    return [
        ServedPrediction(str(key), at, {"id": key}, dict(zip(columns, row, strict=True)), positions)
        for key, row, positions in zip(KEYS, result.rows, result.positions, strict=True)
    ]


def deliver(shop: Shop, history: History) -> Iterator[None]:
    """Ingests a batch at a time, and builds the current rows."""
    for batch in history.batches:
        for record in batch:
            shop.log.append(shop.contract.topic, [record.raw], headers=[record.headers])
        shop.ingest()
        shop.build()
        yield


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
def test_every_flow_has_the_rows_of_the_database(shop: Shop, tmp_path: Path, seed: int) -> None:
    history, plan = make_history(seed), make_plan(shop)
    with closing(online.open(make_settings(tmp_path, "scratch", state=tmp_path / "state"))) as store:
        for _ in deliver(shop, history):
            fill(shop.project, shop.lake, plan, store)
            check_served(shop, store, plan)
        served = serve(store, plan)
    check_traced(shop, plan, served)
    newest = rows_at(history, history.states[-1][0])
    for prediction in served:
        expected = features_of(newest.get(prediction.keys["id"]))
        assert list(prediction.values.values()) == expected * 2, prediction
    check_offline(shop, plan, history, tmp_path)


def check_served(shop: Shop, store: online.OnlineStore, plan: FeaturePlan) -> None:
    """What is served now is what a training set of now has, and what parity makes again."""
    served = serve(store, plan)
    labels = pl.DataFrame(
        {"id": list(KEYS), "event_timestamp": [from_micros(prediction.at) for prediction in served]}
    )
    trained = join(labels, plan, lambda name: shop.lake.table(name).scan())
    columns = [feature.column for feature in plan.features]
    assert [tuple(prediction.values.values()) for prediction in served] == trained.select(columns).rows()
    again = recompute(shop.project, shop.lake, plan, served)
    assert [list(result.features.values()) for result in again] == [list(p.values.values()) for p in served]
    skew = SkewCheck(shop.project, shop.lake, plan, lambda name: shop.lake.table(name).scan(), {})
    skew.add(served)
    report = skew.report()
    assert (report.equal, report.views["then"].reasons, report.views["now"].reasons) == (len(served), {}, {})


def check_traced(shop: Shop, plan: FeaturePlan, served: list[ServedPrediction]) -> None:
    """`why` shows the row that was served, and makes its values again from what it read for that."""
    for prediction in served:
        sources = {}
        for view in plan.as_of:
            position = prediction.positions[view.name]
            assert isinstance(position, RowPosition)
            evidence = find_row(shop.project, shop.lake, view, prediction.keys, position)
            sources[view.name] = evidence.source
            shown = None if evidence.row is None else list(evidence.row.values.values())
            values = [prediction.values[f"{view.name}__{field.name}"] for field in FIELDS]
            assert shown == (None if position.time is None else values), (view.name, prediction)
        (traced,) = recompute(shop.project, shop.lake, plan, [prediction], sources=sources)
        assert traced.features == prediction.values


def check_offline(shop: Shop, plan: FeaturePlan, history: History, folder: Path) -> None:
    last = history.states[-1][0]
    asked = [(key, second) for second in range(-1, last + 2) for key in KEYS]
    labels = pl.DataFrame(
        {
            "id": [key for key, _ in asked],
            "event_timestamp": [from_micros(moment(second)) for _, second in asked],
        }
    )

    def read(name: str) -> pl.LazyFrame:
        return shop.lake.table(name).scan()

    columns = [f"then__{field.name}" for field in FIELDS]
    expected = [tuple(features_of(rows_at(history, second).get(key))) for key, second in asked]
    assert join(labels, plan, read).select(columns).rows() == expected
    pieces = folder / "pieces"
    pieces.mkdir()
    parts = join_in_pieces(
        labels, plan, read, folder=pieces, memory=20_000, compute=LocalCompute(read), failed={}
    )
    assert pl.concat(parts).select(columns).rows() == expected
