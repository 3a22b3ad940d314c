"""A prediction over HTTP with all features, against bare uvicorn that does only the lookup and the prediction.

    python bench/serving.py [--json] [--seconds 8] [--rounds 5] [--serving processes|ray_serve] [--traced]
                            [--max-batch-size 64]

Both read the same online store and the same model (100 trees, 6 features) on this machine, one process each.
Ours also does the split, the checks, the metrics and the prediction log; on Ray Serve, behind HAProxy. The
peer only decodes, looks up, predicts and answers. The client is one process with plain sockets on the same
machine: p50 with one connection, the rate with 16. The processor time is that of the server under 16
connections, with its children: ours includes the supervision and the shipping of predictions. Both run
throughout and are measured in turn; the figures are medians of the rounds. With --traced, ours traces every
request, and the peer is ours without traces. With --max-batch-size, ours makes micro-batches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from headrace import lake, log, registry
from headrace.config.settings import Settings, load_settings
from headrace.features import online
from headrace.features.online.lookup import Lookup
from headrace.features.plan import (
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    PlanField,
    decode_plan,
    encode_plan,
)
from headrace.features.values.matrix import Encoding
from headrace.http.serve import serve
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.time import from_micros, now_micros
from headrace.registry.bundle import seal
from headrace.registry.signing import signing_key
from headrace.serving import release
from headrace.serving.release import Arm
from headrace.training.trainers.folder import load_model, save_model
from headrace.training.trainers.port import ModelMeta
from headrace.training.trainers.xgboost import MODEL
from workloads.requests import PRODUCTS, Load, Server, measure_rate

NAMES = [f"f{n}" for n in range(6)]
WARM_UP = 0.5  # seconds before the measurement


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serving", default="processes")
    parser.add_argument("--traced", action="store_true", help="the peer is ours too, and ours is traced")
    parser.add_argument("--max-batch-size", type=int, default=1, help="of ours")
    options = parser.parse_args()
    os.environ["HEADRACE_MAX_BATCH_SIZE"] = str(options.max_batch_size)  # the replicas read it
    folder = Path(tempfile.mkdtemp())
    own: list[tuple[float, ...]] = []
    peer: list[tuple[float, ...]] = []
    try:
        settings = make_project(folder / "project")
        settings = settings.with_values(serving=options.serving)
        with ExitStack() as stack:
            bare = stack.enter_context(run_ours(settings) if options.traced else run_bare(settings))
            ours = stack.enter_context(run_traced(settings, folder) if options.traced else run_ours(settings))
            for _ in range(options.rounds):
                peer.append(measure(bare, options.seconds / options.rounds))
                own.append(measure(ours, options.seconds / options.rounds))
    finally:
        shutil.rmtree(folder)
    work = ("one prediction over HTTP, p50", "predictions over HTTP, 16 connections", "processor time of one")
    figures = [
        {
            "work": name,
            "unit": unit,
            "ours": median(figures[index] for figures in own),
            "peer": median(figures[index] for figures in peer),
        }
        for index, (name, unit) in enumerate(zip(work, ("ms", "/s", "µs"), strict=True))
    ]
    for figure in figures:
        figure["ratio"] = figure["ours"] / figure["peer"]
        print(json.dumps(figure) if options.json else figure, flush=True)


def make_project(root: Path) -> Settings:
    """A project with a released version and 10,000 products in its online store."""
    import xgboost

    (root / "small").mkdir(parents=True)
    (root / "small" / "__init__.py").write_text("")
    (root / "headrace.toml").write_text('[project]\nname = "small"\n')
    settings = load_settings(root)
    fields = tuple(PlanField(name, "float64") for name in NAMES)
    view = AsOfView("facts", ("product_id",), "facts", "event_timestamp", fields, ttl=7 * 86_400_000_000)
    plan = FeaturePlan(
        model="purchase",
        entities=(EntityKey("user", "user_id", "int64"), EntityKey("product", "product_id", "int64")),
        views=(view,),
        features=tuple(FeatureRef("facts", name, "float64") for name in NAMES),
        request=(PlanField("price", "float64"),),
    )
    values = make_values()
    random = np.random.default_rng(2)
    data = xgboost.DMatrix(values, (values[:, 0] + random.normal(size=PRODUCTS) > 0).astype(float))
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 5, "nthread": 1}, data, 100)
    bundle = registry.open(settings).bundle_folder("purchase", 1)
    bundle.mkdir(parents=True)
    (bundle / "plan.json").write_bytes(encode_plan(plan))
    columns = tuple(feature.column for feature in plan.features)
    meta = ModelMeta(trainer="xgboost", encoding=Encoding(columns))
    save_model(bundle / "model", {MODEL: bytes(booster.save_raw("ubj"))}, meta)
    seal(bundle, signing_key(settings))
    store = online.open(settings)
    store.prepare(plan)
    at = pa.array([from_micros(now_micros() - 3_600_000_000)] * PRODUCTS, pa.timestamp("us", "UTC"))
    columns_of = {name: values[:, n] for n, name in enumerate(NAMES)}
    rows = pa.table({"product_id": np.arange(PRODUCTS), "event_timestamp": at, **columns_of})
    snapshot = lake.open(settings).ensure("facts", rows.schema).overwrite(rows)
    store.load(view, rows, SnapshotPosition("facts", snapshot.id))
    store.close()
    topics = log.open(settings.log.url)
    release.append(topics, release.make("purchase", [Arm(1)], by="bench", why="bench"))
    topics.close()
    return settings


def make_values() -> np.ndarray:
    """The features of the products: float64 [products, 6]."""
    return np.random.default_rng(1).normal(size=(PRODUCTS, len(NAMES)))


@contextmanager
def run_bare(settings: Settings) -> Iterator[Server]:
    """Runs uvicorn in its own process, with an application that only looks up, predicts and answers."""
    with run_process(_serve_bare, settings) as server:
        yield server


@contextmanager
def run_process(
    serve_until_told: Callable[[Settings, Connection], None], settings: Settings
) -> Iterator[Server]:
    """Runs a server in its own process, so that it shares no interpreter with the client; gives its address."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe()
    process = context.Process(target=serve_until_told, args=(settings, sending))
    process.start()
    try:
        yield Server(receiving.recv(), process.pid or 0)
    finally:
        receiving.send("stop")
        process.join()


def _serve_bare(settings: Settings, pipe: Connection) -> None:
    bundle = registry.open(settings).bundle("purchase", 1)
    plan = decode_plan((bundle / "plan.json").read_bytes())
    lookup = Lookup(plan, online.open(settings))
    model = load_model(bundle / "model")

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["type"] == "lifespan":
            while True:
                await send({"type": f"{(await receive())['type']}.complete"})
        instance = json.loads((await receive())["body"])
        value = model.predict(lookup.features([instance], now_micros()).matrix)[0]
        body = json.dumps({"model": "purchase", "version": 1, "value": float(value)}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    with serve(app, "127.0.0.1", 0) as server:
        pipe.send(server.url)
        pipe.poll(None)


@contextmanager
def run_ours(settings: Settings) -> Iterator[Server]:
    """Runs the endpoint as the setting `serving` says, supervised by its own process, as `headrace up` is."""
    with run_process(_serve_ours, settings) as server:
        yield server


def _serve_ours(settings: Settings, pipe: Connection) -> None:
    from headrace.kernel.ports import find_free_port
    from headrace.serving import deployment

    running = deployment.start(settings, port=find_free_port())
    try:
        pipe.send(running.url)
        pipe.poll(None)
    finally:
        running.stop()


@contextmanager
def run_traced(settings: Settings, folder: Path) -> Iterator[Server]:
    """Runs the endpoint with every request traced, and an OpenTelemetry Collector that takes the spans."""
    from services.otel import collector

    (folder / "otel").mkdir()
    with collector(folder / "otel") as received:
        os.environ.update(received.environment, HEADRACE_TRACE_SHARE="1")  # the replicas read it
        with run_ours(settings) as server:
            yield server


def measure(server: Server, seconds: float) -> tuple[float, float, float]:
    """The p50 in ms with one connection, the answers a second with 16, and the µs of processor time of each."""
    measure_rate(Load(server), WARM_UP)
    alone = measure_rate(Load(server), seconds / 2, connections=1)
    together = measure_rate(Load(server), seconds / 2)
    return alone.p50, together.rate, together.cpu


if __name__ == "__main__":
    main()
