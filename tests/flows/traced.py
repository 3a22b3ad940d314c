"""A small shop with one logged prediction, and the raw events of its features."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from headrace import lake as lakes
from headrace import lineage, registry
from headrace import log as logs
from headrace.config.settings import Settings, load_settings
from headrace.events.ingest.ingest import Ingest
from headrace.features import online
from headrace.features.feast import compile as compile_plan
from headrace.features.online.lookup import Lookup
from headrace.features.plan import FeaturePlan, encode_plan
from headrace.kernel.ids import new_id
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.run import Dataset, record_with, run
from headrace.kernel.time import micros
from headrace.projects.project import Project, load_project
from headrace.serving import release
from headrace.serving.prediction import TOPIC, Prediction
from headrace.tables.build import build_table
from headrace.training.evaluation.binary import BinaryEvaluator
from headrace.training.gate import judge
from headrace.training.report import TrainingReport, TrainingSet, write_report

SHOP = Path(__file__).parents[2] / "examples" / "shop"
USER, PRODUCT = 1, 10


@dataclass
class TracedShop:
    """The shop and the prediction. `offsets`: of the events of the prediction's user in the last day."""

    settings: Settings
    project: Project
    plan: FeaturePlan
    prediction: Prediction
    offsets: list[int]


def encode_event(at: datetime, user: int, kind: str, product: int, price: float) -> bytes:
    fields = {
        "event_time": at,
        "event_type": kind,
        "product_id": product,
        "category_id": 5,
        "user_id": user,
        "price": price,
        "user_session": f"s{user}",
        "category_code": "books.novel",
        "brand": "Acme",
    }
    return msgspec.json.encode(fields)


def make_traced_shop(folder: Path) -> TracedShop:
    """Makes the shop: ingested events, tables, a plan, a registered version, a release and a prediction."""
    root = folder / "shop"
    shutil.copytree(SHOP, root, ignore=shutil.ignore_patterns(".headrace", "__pycache__"))
    settings = load_settings(root)
    project = load_project(settings)
    plan = compile_plan(project, project.model("purchase"))
    store = lineage.open(settings)
    with store.recorder() as recorder, record_with(recorder):
        offsets = _ingest_events(settings, project)
        _build_tables(settings, project)
        prediction = _log_prediction(settings, plan)
        _register_version(settings, plan, prediction)
    store.close()
    return TracedShop(settings, project, plan, prediction, offsets)


def _ingest_events(settings: Settings, project: Project) -> list[int]:
    """Ingests events of USER in the last day and others that must not count; returns the former's offsets."""
    log = logs.open(settings.log.url)
    contract = project.contract("user_behaviour")
    log.create(contract.topic, contract.partitions)
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = midnight - timedelta(hours=1)
    # Today's events are of today, also in the first hour, in which these minutes are shorter.
    minute = min(timedelta(minutes=1), (now - midnight) / 51)
    events = [
        encode_event(now - timedelta(days=4), USER, "view", PRODUCT, 20.0),  # before the longest window
        encode_event(yesterday, 2, "view", PRODUCT, 18.0),
        encode_event(yesterday + timedelta(minutes=1), 2, "cart", PRODUCT, 22.0),
        encode_event(now - 50 * minute, USER, "view", PRODUCT, 20.5),
        encode_event(now - 40 * minute, 2, "view", PRODUCT, 19.0),  # another user
        encode_event(now - 30 * minute, USER, "cart", PRODUCT, 20.5),
        encode_event(now - 20 * minute, USER, "purchase", PRODUCT, 20.5),
        b'{"user_id": 1, "nonsense"',
        encode_event(now - 10 * minute, USER, "view", 11, 0.1 + 0.2),
    ]
    positions = log.append(contract.topic, events, [b"1"] * len(events))
    lake = lakes.open(settings)
    Ingest(contract, log, lake).run(True, threading.Event())
    log.close()
    return [positions[n][1] for n in (3, 5, 6, 8)]


def _build_tables(settings: Settings, project: Project) -> None:
    lake = lakes.open(settings)
    for name in ("clean_events", "departments", "product_facts"):
        build_table(project, lake, project.table(name), code="1")


def _log_prediction(settings: Settings, plan: FeaturePlan) -> Prediction:
    """Logs a prediction as a replica does, with features of an online store that is filled from the tables."""
    log = logs.open(settings.log.url)
    at = datetime.now(UTC)
    entity, request = {"user_id": USER, "product_id": PRODUCT}, {"price": 25.0, "event_type": "cart"}
    lookup = _fill_online_store(settings, plan, log).features([{**entity, **request}], micros(at))
    values = [None if value != value else value for value in lookup.values[0]]
    first = release.make("purchase", [release.Arm(1)], by="tests", why="the first version")
    release.append(log, first)
    prediction = Prediction(
        id=new_id(),
        model="purchase",
        version=1,
        arm="champion",
        shadow=False,
        at=at,
        entity=entity,
        request=request,
        features=dict(zip([feature.column for feature in plan.features], values, strict=True)),
        value=0.25,
        plan=plan.digest,
        instance=0,
        latency_ms=1.5,
        missing=lookup.missing[0],
        positions=msgspec.to_builtins(lookup.positions[0], str_keys=True),
        release=first.id,
    )
    log.create(TOPIC)
    log.append(TOPIC, [msgspec.json.encode(prediction)])
    log.close()
    return prediction


def _fill_online_store(settings: Settings, plan: FeaturePlan, log: logs.Log) -> Lookup:
    lake = lakes.open(settings)
    store = online.open(settings)
    store.prepare(plan)
    for windowed in plan.windowed:
        topic = windowed.topic
        rows = lake.table(windowed.table).scan().collect().to_arrow()
        store.fill(windowed, rows, LogPosition(topic, log.identity(topic), log.end(topic)))
    for as_of in plan.as_of:
        table = lake.table(as_of.table)
        head = table.current_snapshot()
        assert head is not None
        rows = table.scan(head.id).collect().to_arrow()
        store.load(as_of, rows, SnapshotPosition(as_of.table, head.id))
    return Lookup(plan, store)


def _register_version(settings: Settings, plan: FeaturePlan, prediction: Prediction) -> None:
    lake = lakes.open(settings)
    bundle = settings.root.parent / "bundle"
    (bundle / "model").mkdir(parents=True)
    (bundle / "model" / "meta.json").write_text("{}")
    (bundle / "plan.json").write_bytes(encode_plan(plan))
    inputs, snapshot = [], 0
    for name in ("clean_events", "product_facts"):
        head = lake.table(name).current_snapshot()
        assert head is not None
        snapshot = head.id
        inputs.append(Dataset("table", name, SnapshotPosition(name, head.id)))
    lake.table("product_facts").create_tag(f"training.{snapshot}", snapshot)
    with run("train purchase", inputs) as job:
        rows = TrainingSet(
            "purchase", "product_facts", snapshot, {"product_facts": snapshot}, plan.digest, 4, 0
        )
        evaluation = BinaryEvaluator().evaluate([0, 1], [0.2, 0.8])
        report = TrainingReport(
            model="purchase",
            task="binary",
            run=job.id,
            code="c0de",
            training_set=rows,
            parts={"train": 2, "validation": 1, "test": 1, "dropped": 0},
            boundaries={},
            split="by time",
            parameters={"num_boost_round": 7},
            trials=[],
            validation=evaluation,
            test=evaluation,
            champion=None,
            importance={},
            gate=judge([], evaluation.metrics, None),
        )
        write_report(bundle, report)
        version = registry.open(settings).register(
            "purchase", bundle, metrics={"roc_auc": 0.81}, params={}, tags={}
        )
        job.add_output(Dataset("model", f"purchase@{version}"))
    assert version == prediction.version
