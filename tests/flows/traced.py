"""A small shop with one logged prediction whose every raw event is known."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from headrace import lake as lakes
from headrace import lineage, registry
from headrace import log as logs
from headrace.config.settings import Settings, load_settings
from headrace.declare.project import Project, load_project
from headrace.events.ingest import Ingest
from headrace.features.feast import compile as compiled
from headrace.features.plan import Plan, encode_plan
from headrace.features.point_in_time import join
from headrace.kernel.ids import new_id
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.run import Dataset, recorder_added, run
from headrace.kernel.time import micros
from headrace.serving import release
from headrace.serving.prediction_log import TOPIC, Prediction
from headrace.tables.build import build_table

SHOP = Path(__file__).parents[2] / "examples" / "shop"
USER, PRODUCT = 1, 10


@dataclass
class Traced:
    """The shop, and the prediction: `behind` are the offsets of the events of its user's last day."""

    settings: Settings
    project: Project
    plan: Plan
    prediction: Prediction
    behind: list[int]


def event(at: datetime, user: int, kind: str, product: int, price: float) -> bytes:
    return msgspec.json.encode(
        {
            "event_time": at, "event_type": kind, "product_id": product, "category_id": 5, "user_id": user,
            "price": price, "user_session": f"s{user}", "category_code": "books.novel", "brand": "Acme",
        }
    )  # fmt: skip


def traced(folder: Path) -> Traced:
    """Makes it: events, ingest, tables, plan, a registered version, a release, a prediction."""
    root = folder / "shop"
    shutil.copytree(SHOP, root, ignore=shutil.ignore_patterns(".headrace", "__pycache__"))
    settings = load_settings(root)
    project = load_project(settings)
    plan = compiled(project, project.model("purchase"))
    store = lineage.open(settings)
    with store.recorder() as recorder, recorder_added(recorder):
        behind = _events(settings, project)
        _tables(settings, project)
        prediction = _prediction(settings, plan)
        _version(settings, plan, prediction)
    store.close()
    return Traced(settings, project, plan, prediction, behind)


def _events(settings: Settings, project: Project) -> list[int]:
    """Two days of events: those of USER in its last day, and others that must not count."""
    log = logs.open(settings.log_url)
    contract = project.contract("user_behaviour")
    log.create(contract.topic, contract.partitions)
    now = datetime.now(UTC)
    yesterday = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=1)
    told = [
        event(now - timedelta(days=4), USER, "view", PRODUCT, 20.0),  # before the longest window
        event(yesterday, 2, "view", PRODUCT, 18.0),
        event(yesterday + timedelta(minutes=1), 2, "cart", PRODUCT, 22.0),
        event(now - timedelta(minutes=50), USER, "view", PRODUCT, 20.5),
        event(now - timedelta(minutes=40), 2, "view", PRODUCT, 19.0),  # another user
        event(now - timedelta(minutes=30), USER, "cart", PRODUCT, 20.5),
        event(now - timedelta(minutes=20), USER, "purchase", PRODUCT, 20.5),
        b'{"user_id": 1, "nonsense"',
        event(now - timedelta(minutes=10), USER, "view", 11, 0.1 + 0.2),
    ]
    places = log.append(contract.topic, told, [b"1"] * len(told))
    lake = lakes.open(settings)
    Ingest(contract, log, lake).run(True, threading.Event())
    log.close()
    return [places[n][1] for n in (3, 5, 6, 8)]


def _tables(settings: Settings, project: Project) -> None:
    lake = lakes.open(settings)
    for name in ("clean_events", "departments", "product_facts"):
        build_table(project, lake, project.table(name), code="1")


def _prediction(settings: Settings, plan: Plan) -> Prediction:
    """As a replica would make it: values of the offline join stand for the online ones."""
    lake = lakes.open(settings)
    log = logs.open(settings.log_url)
    at = datetime.now(UTC)
    request: dict[str, Any] = {"price": 25.0, "event_type": "cart"}
    label = pl.DataFrame({"user_id": [USER], "product_id": [PRODUCT], "event_timestamp": [at], **request})
    row = join(label, plan, lambda name: lake.table(name).scan()).row(0, named=True)
    head = lake.table("product_facts").head()
    assert head is not None
    newest = lake.table("product_facts").scan().filter(pl.col("event_timestamp") < at)
    newest = newest.filter(pl.col("product_id") == PRODUCT)
    time = newest.select(pl.col("event_timestamp").max()).collect().item()
    made = release.make("purchase", [release.Arm(1)], by="tests", why="the first version")
    release.append(log, made)
    ends = log.end("user_behaviour")
    prediction = Prediction(
        id=new_id(), model="purchase", version=1, arm="champion", shadow=False, at=at,
        entity={"user_id": USER, "product_id": PRODUCT}, request=request,
        features={c: None if row[c] is None else float(row[c]) for c in (one.column for one in plan.features)},
        score=0.25, missing=[name for name in row if row[name] is None],
        positions={
            "user_activity": {"kind": "stream", "offsets": {str(p): o for p, o in ends.items()}},
            "product_facts": {"kind": "row", "snapshot": head.id, "time": micros(time)},
        },
        release=made.id,
    )  # fmt: skip
    log.create(TOPIC)
    log.append(TOPIC, [msgspec.json.encode(prediction)])
    log.close()
    return prediction


def _version(settings: Settings, plan: Plan, prediction: Prediction) -> None:
    lake = lakes.open(settings)
    bundle = settings.root.parent / "bundle"
    (bundle / "model").mkdir(parents=True)
    (bundle / "model" / "meta.json").write_text("{}")
    (bundle / "plan.json").write_bytes(encode_plan(plan))
    (bundle / "training.json").write_text('{"training_set": {"table": "training_purchase", "snapshot": 1}}')
    inputs = []
    for name in ("clean_events", "product_facts"):
        head = lake.table(name).head()
        assert head is not None
        inputs.append(Dataset("table", name, SnapshotPosition(name, head.id)))
    with run("train purchase", inputs) as this:
        version = registry.open(settings).register(
            "purchase", bundle, metrics={"roc_auc": 0.81}, params={}, tags={}
        )
        this.output(Dataset("model", f"purchase@{version}"))
    assert version == prediction.version
