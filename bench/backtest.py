"""A backtest of logged requests, and the same requests answered as of their moments, in one process.

    python bench/backtest.py [--json] [--requests 1000000] [--as-of 100000]

The requests are answered by a replica's predictor, 100 at once, with 6 looked-up features and 100 trees, and
are shipped and ingested. The version that answered must give every answer again, to the last bit, in both.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl

from headrace import log, registry
from headrace.config.settings import Settings
from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.features import online
from headrace.features.plan import decode_plan
from headrace.flows.models.backtest import backtest
from headrace.registry.bundle import seal
from headrace.registry.signing import signing_key
from headrace.serving import release
from headrace.serving.as_of.predictor import AsOfPredictor
from headrace.serving.as_of.query import AsOf
from headrace.serving.metrics import Metrics
from headrace.serving.metrics_slot import MetricsSlot
from headrace.serving.models import ReleasedModel
from headrace.serving.prediction import TABLE, TOPIC, Prediction
from headrace.serving.predictor import SpoolingPredictor
from headrace.serving.servable import load_servable
from headrace.serving.shipper import ship
from headrace.training.evaluation.binary import BinaryEvaluator
from headrace.training.gate import judge
from headrace.training.report import TrainingReport, TrainingSet, write_report
from headrace.workspace import Workspace
from serving import PRODUCTS, make_project

TOGETHER = 100  # instances of a request
MODELS = """
from datetime import datetime
from headrace import Model, Struct, XGBoost, event, table

@event(topic="clicks", time="at")
class Click(Struct):
    at: datetime

@table(reads=Click)
def labels(clicks):
    return clicks

purchase = Model("purchase", labels=labels, target="bought", features=None, trainer=XGBoost())
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--as-of", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = make_project(Path(folder) / "project")
        (settings.root / "small" / "models.py").write_text(MODELS)
        put_report(settings)
        log_requests(settings, options.requests)
        with Workspace(settings) as workspace:
            Ingest(contract_of(Prediction), workspace.log, workspace.lake).run(True, threading.Event())
        begun, used = time.perf_counter(), time.process_time()
        with Workspace(settings) as workspace:
            report = backtest(workspace, "purchase", 1)
        seconds = time.perf_counter() - begun
        (part,) = report.slices
        assert (part.requests, part.equal) == (options.requests, options.requests), part
        show(options.json, f"backtest of {options.requests:,} logged requests", seconds, "s")
        show(options.json, "processor time of it", time.process_time() - used, "s")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        show(options.json, "peak memory of it", peak, "GiB")
        count, seconds = ask_as_of(settings, options.as_of)
        show(options.json, f"{count:,} logged requests as of their moments", seconds, "s")


def put_report(settings: Settings) -> None:
    """Writes the training report, which a backtest reads, into the version's bundle."""
    bundle = registry.open(settings).bundle_folder("purchase", 1)
    evaluation = BinaryEvaluator().evaluate(np.array([0, 1]), np.array([0.2, 0.8]))
    plan = decode_plan((bundle / "plan.json").read_bytes())
    report = TrainingReport(
        model="purchase",
        task="binary",
        run="bench",
        code="bench",
        training_set=TrainingSet("purchase", "t", 1, {}, plan.digest, 4, 0),
        parts={"train": 2, "validation": 1, "test": 1, "dropped": 0},
        boundaries={},
        split="by time",
        parameters={},
        trials=[],
        validation=evaluation,
        test=evaluation,
        champion=None,
        importance={},
        gate=judge([], evaluation.metrics, None),
    )
    write_report(bundle, report)
    seal(bundle, signing_key(settings))


def log_requests(settings: Settings, count: int) -> None:
    """Answers requests, and puts their predictions on the log."""
    random, folder = np.random.default_rng(2), settings.place("serving")
    with closing(log.open(settings.log.url)) as topics, closing(online.open(settings)) as store:
        topics.create(TOPIC)
        current = release.find_current(topics, "purchase")
        assert current is not None
        model = ReleasedModel(current, {1: load_servable(registry.open(settings), store, "purchase", 1)})
        predictor = SpoolingPredictor(folder / "spool", Metrics(MetricsSlot(folder / "metrics").counts))
        for first in range(0, count, TOGETHER):
            products = random.integers(0, PRODUCTS + PRODUCTS // 100, TOGETHER).tolist()  # 1 % are not known
            predictor.predict(
                model,
                [
                    {"user_id": first + row, "product_id": product, "price": float(row)}
                    for row, product in enumerate(products)
                ],
            )
        predictor.close()
        ship(folder / "spool", topics)


def ask_as_of(settings: Settings, count: int) -> tuple[int, float]:
    """Asks for logged requests at their moments, request by request. Returns their number, and the seconds."""
    with Workspace(settings) as workspace:
        rows = workspace.lake.table(TABLE).scan().select("at", "instance", "entity", "request", "value", "id")
        logged = rows.sort("at", "instance").head(count).collect()
    groups = logged.partition_by("at", maintain_order=True)
    with closing(AsOfPredictor(settings)) as predictor:
        begun = time.perf_counter()
        for group in groups:
            check_request(predictor, group)
        return len(logged), time.perf_counter() - begun


def check_request(predictor: AsOfPredictor, group: pl.DataFrame) -> None:
    """Asks for the requests of one moment, and compares the answers with the logged ones."""
    pairs = zip(group["entity"], group["request"], strict=True)
    body = json.dumps({"instances": [json.loads(entity) | json.loads(request) for entity, request in pairs]})
    answer = predictor.answer("purchase", AsOf(group["at"][0]), body.encode())
    predictions = json.loads(answer)["predictions"]
    expected = [(id_, json.loads(value)) for id_, value in group.select("id", "value").iter_rows()]
    assert [(prediction["logged"], prediction["value"]) for prediction in predictions] == expected


def show(as_json: bool, work: str, figure: float, unit: str) -> None:
    if as_json:
        print(json.dumps({"work": work, "ours": figure, "unit": unit}), flush=True)
    else:
        print(f"{work}: {figure:.1f} {unit}", flush=True)


if __name__ == "__main__":
    main()
