"""One prediction over HTTP, everything on, against bare uvicorn doing lookup and model.

    python bench/serving.py [--json] [--seconds 8] [--rounds 5] [--serving processes|ray_serve]

Both read the same online store and the same model (100 trees, 6 features) on this machine, one process
each. Ours does the split, the checks, the metrics and the prediction log (on Ray Serve it has HAProxy before
it). The peer decodes, looks up, predicts and answers, nothing else. The client is one process of plain sockets
on the same machine: p50 with one connection, the rate with 16. Both run all the while and are asked in turn;
the figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from headrace import log, registry
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
from headrace.training.trainers.folder import ModelMeta, load_model, save_model
from headrace.training.trainers.xgboost import MODEL

NAMES = [f"f{n}" for n in range(6)]
PRODUCTS = 10_000
WARM = 0.5  # seconds before figures are taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serving", default="processes")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    own: list[tuple[float, float]] = []
    peer: list[tuple[float, float]] = []
    try:
        settings = made(folder / "project")
        with bare(settings) as bare_url, ours(settings.with_values(serving=given.serving)) as url:
            for _ in range(given.rounds):
                peer.append(measured(bare_url, given.seconds / given.rounds))
                own.append(measured(url, given.seconds / given.rounds))
    finally:
        shutil.rmtree(folder)
    work = ("one prediction over HTTP, p50", "predictions over HTTP, 16 connections")
    figures = [
        {
            "work": what,
            "unit": unit,
            "ours": median(figures[place] for figures in own),
            "peer": median(figures[place] for figures in peer),
        }
        for place, (what, unit) in enumerate(zip(work, ("ms", "/s"), strict=True))
    ]
    for figure in figures:
        figure["ratio"] = figure["ours"] / figure["peer"]
        print(json.dumps(figure) if given.json else figure, flush=True)


def made(root: Path) -> Settings:
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
    random = np.random.default_rng(1)
    values = random.normal(size=(PRODUCTS, len(NAMES)))
    data = xgboost.DMatrix(values, (values[:, 0] + random.normal(size=PRODUCTS) > 0).astype(float))
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 5, "nthread": 1}, data, 100)
    place = registry.open(settings).bundle_folder("purchase", 1)
    place.mkdir(parents=True)
    (place / "plan.json").write_bytes(encode_plan(plan))
    columns = tuple(one.column for one in plan.features)
    meta = ModelMeta(trainer="xgboost", encoding=Encoding(columns))
    save_model(place / "model", {MODEL: bytes(booster.save_raw("ubj"))}, meta)
    seal(place, signing_key(settings))
    store = online.open(settings.online.url)
    store.prepare(plan)
    at = pa.array([from_micros(now_micros() - 3_600_000_000)] * PRODUCTS, pa.timestamp("us", "UTC"))
    columns_of = {name: values[:, n] for n, name in enumerate(NAMES)}
    rows = pa.table({"product_id": np.arange(PRODUCTS), "event_timestamp": at, **columns_of})
    store.load(view, rows, SnapshotPosition("facts", 1))
    store.close()
    topics = log.open(settings.log.url)
    release.append(topics, release.make("purchase", [Arm(1)], by="bench", why="bench"))
    topics.close()
    return settings


@contextmanager
def bare(settings: Settings) -> Iterator[str]:
    """Uvicorn in a process of its own, with an application that only looks up, predicts and answers."""
    spawned = multiprocessing.get_context("spawn")
    here, there = spawned.Pipe()
    process = spawned.Process(target=_bare, args=(settings, there), daemon=True)
    process.start()
    yield here.recv()
    process.terminate()
    process.join()


def _bare(settings: Settings, pipe: multiprocessing.connection.Connection) -> None:
    bundle = registry.open(settings).bundle("purchase", 1)
    plan = decode_plan((bundle / "plan.json").read_bytes())
    lookup = Lookup(plan, online.open(settings.online.url))
    model = load_model(bundle / "model")

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["type"] == "lifespan":
            while True:
                await send({"type": f"{(await receive())['type']}.complete"})
        asked = json.loads((await receive())["body"])
        score = model.predict(lookup.features([asked], now_micros()).matrix)[0]
        body = json.dumps({"model": "purchase", "version": 1, "value": float(score)}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    with serve(app, "127.0.0.1", 0) as served:
        pipe.send(served.url)
        pipe.poll(None)


@contextmanager
def ours(settings: Settings) -> Iterator[str]:
    from headrace.http.serve import bind
    from headrace.serving import deployment

    with bind("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    running = deployment.start(settings, port=port)
    try:
        yield running.url
    finally:
        running.stop()


def measured(url: str, seconds: float) -> tuple[float, float]:
    """(p50 in ms with one connection, answers a second with 16)."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 0
    asyncio.run(_asked(host, port, 16, WARM))
    one, _ = asyncio.run(_asked(host, port, 1, seconds / 2))
    _, rate = asyncio.run(_asked(host, port, 16, seconds / 2))
    return median(one) * 1000, rate


async def _asked(host: str, port: int, connections: int, seconds: float) -> tuple[list[float], float]:
    took: list[float] = []
    began = time.perf_counter()
    await asyncio.gather(*(_one(host, port, n, began + seconds, took) for n in range(connections)))
    return took, len(took) / (time.perf_counter() - began)


async def _one(host: str, port: int, seed: int, until: float, took: list[float]) -> None:
    """One connection that asks again as soon as it has its answer."""
    reader, writer = await asyncio.open_connection(host, port)
    products = np.random.default_rng(seed).integers(0, PRODUCTS, 4096).tolist()
    place = 0
    while time.perf_counter() < until:
        place = (place + 1) % 4096
        body = b'{"user_id": %d, "product_id": %d, "price": 3.5}' % (place, products[place])
        head = b"POST /predict/purchase HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        asked = time.perf_counter()
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            sys.exit(f"the answer is {answer!r}")
        length = next(line for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        took.append(time.perf_counter() - asked)
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    main()
