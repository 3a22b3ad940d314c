"""The latency of single requests while the champion is replaced, and beside large batches.

    python bench/steady.py [--json] [--rate R] [--seconds 4] [--swaps 6] [--replicas 1]

One process runs the endpoint, another one records the releases, and this one sends single requests at a steady
rate over 8 connections: half of the peak with that kind of model, unless a rate is given. A request's
latency counts from the moment that it was due, so that a server that stands still is seen in every request that
waited for it. Each figure compares the p99 in such a time with the p99 just before it:

- while a release is activated: from the record on the log until half a second after the first answer by the new
  version; of XGBoost, of scikit-learn, of PyTorch, and the first one of scikit-learn beside XGBoost. Each
  version is loaded once before it is released, as `headrace release` does;
- while another process sends requests of 10,000 instances, one after the other, over one connection.

Beside them stands for what share of the time a thread of the server waited for a core. On cores that others use
too, this is most of what a request waits for: while the event loop does not run, all requests stand still. One
such wait of 50 ms decides the p99 of the second of a release.

A request that is not answered with 200 ends the benchmark with an error.
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
from importlib import metadata
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, median
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from headrace import log, registry
from headrace.config.settings import Settings
from headrace.features.plan import decode_plan
from headrace.features.values.matrix import Encoding
from headrace.registry.bundle import seal
from headrace.registry.signing import signing_key
from headrace.serving import release
from headrace.serving.release import Arm
from headrace.serving.trial import try_release
from headrace.training.trainers.folder import save_model
from headrace.training.trainers.network import Network, Scale, encode_network
from headrace.training.trainers.port import ModelMeta
from headrace.training.trainers.torch import MODEL as NETWORK
from serving import NAMES, make_project, run_ours
from workloads.requests import Answer, Load, encode_request, measure_pace, measure_rate, p99, read_answer, send

CONNECTIONS = 8
BATCH = 10_000  # instances
VERSIONS = (1, 2, 3, 4, 5, 6)
AFTER = 0.5  # seconds after the first answer by a new version
DEADLINE = 20.0
_LITTLE = 50.0  # requests a second, which any version can answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true", help="taken by every benchmark")
    parser.add_argument("--rate", type=float, help="requests a second; by default half of the peak")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--swaps", type=int, default=6)
    parser.add_argument("--replicas", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        settings = make_project(folder / "project").with_values(replicas=options.replicas)
        copy_version(settings, 2)
        for version in (3, 4):
            _put_sklearn_version(settings, version)
        for version in (5, 6):
            _put_network_version(settings, version)
        swaps, seconds = options.swaps // 2, options.seconds
        with run_ours(settings) as server, run_releaser(settings) as releaser:
            load = Load(server)
            rate = options.rate or _half_peak(load, seconds)
            report(measure_swaps(releaser, load, rate, seconds, [2, 1] * swaps))
            report(measure_beside_batches(load, rate, seconds))
            measure_swaps(releaser, load, _LITTLE, 0.5, [3])
            rate = options.rate or _half_peak(load, seconds)
            report(measure_swaps(releaser, load, rate, seconds, [4, 3] * swaps, ", scikit-learn"))
            measure_swaps(releaser, load, _LITTLE, 0.5, [5])
            rate_of_network = options.rate or _half_peak(load, seconds)
            report(measure_swaps(releaser, load, rate_of_network, seconds, [6, 5] * swaps, ", PyTorch"))
            measure_swaps(releaser, load, _LITTLE, 0.5, [1])
        with run_ours(settings) as server, run_releaser(settings) as releaser:
            load = Load(server)
            _half_peak(load, seconds)  # the rate of scikit-learn's versions stays: they are slower
            report(measure_swaps(releaser, load, rate, seconds, [3], ", the first of scikit-learn"))
    finally:
        shutil.rmtree(folder)


def _half_peak(load: Load, seconds: float) -> float:
    """Half of the endpoint's peak in requests a second, once it is warm."""
    measure_rate(load, 0.5)
    return measure_rate(load, seconds / 2).rate / 2


def version_of(answer: Answer) -> int:
    """The version that answered."""
    return int(json.loads(answer.body)["version"])


def report(figure: dict[str, Any]) -> None:
    """Prints a figure as one object."""
    print(json.dumps(figure | {"ratio": figure["ours"] / figure["peer"]}), flush=True)


def measure_swaps(
    releaser: Connection, load: Load, rate: float, seconds: float, versions: list[int], kind: str = ""
) -> dict[str, Any]:
    """Makes each version champion under load. The p99 of all requests while one was activated and, as the
    peer, of those just before."""
    before: list[float] = []
    during: list[float] = []
    waits: list[tuple[float, float]] = []
    for version in versions:
        started = time.perf_counter()
        answers, released, waited = asyncio.run(_swap(releaser, load, rate, seconds, version))
        waits.append(waited)
        first = min(
            answer.due for answer in answers if version_of(answer) == version and answer.due >= released
        )
        before += [answer.latency for answer in answers if started <= answer.due < released]
        during += [answer.latency for answer in answers if released <= answer.due < first + AFTER]
    return {
        "work": f"p99 while a release is activated{kind}",
        "unit": "ms",
        "ours": p99(during),
        "peer": p99(before),
        "p50": 1_000 * median(during),
        "p50 before": 1_000 * median(before),
        "rate": rate,
        "requests": len(during),
        "slowest": 1_000 * max(during),
        "waited for a core": mean(share for _, share in waits),
        "waited before": mean(share for share, _ in waits),
    }


async def _swap(
    releaser: Connection, load: Load, rate: float, seconds: float, version: int
) -> tuple[list[Answer], float, tuple[float, float]]:
    """The answers, when the release was recorded, and for what share of the time before and after it the server
    waited for a core."""
    answers: list[Answer] = []
    moments, waited = [time.perf_counter()], [load.server.waiting_seconds()]
    sending = asyncio.create_task(send(load, rate, time.perf_counter() + DEADLINE, answers, CONNECTIONS))
    await asyncio.sleep(seconds)
    waited.append(load.server.waiting_seconds())
    moments.append(released := time.perf_counter())
    releaser.send(version)
    while not any(version_of(answer) == version for answer in answers[-CONNECTIONS:]):
        if sending.done() or time.perf_counter() > released + DEADLINE:
            with urlopen(f"{load.server.url}/models") as models:
                raise SystemExit(f"version {version} did not answer: {models.read().decode()}")
        await asyncio.sleep(0.01)
    await asyncio.sleep(AFTER + 0.2)
    waited.append(load.server.waiting_seconds())
    moments.append(time.perf_counter())
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    before, after = ((waited[part + 1] - waited[part]) / (moments[part + 1] - moments[part]) for part in (0, 1))
    return answers, released, (before, after)


def measure_beside_batches(load: Load, rate: float, seconds: float) -> dict[str, Any]:
    """The p99 of single requests beside batches and, as the peer, alone; each is the median of three turns."""
    alone, beside = [], []
    for _ in range(3):
        alone.append(p99(measure_pace(load, rate, seconds)))
        with _send_batches(load.server.url):
            measure_pace(load, rate, 0.5)
            beside.append(p99(measure_pace(load, rate, seconds)))
    work = f"p99 of single requests beside batches of {BATCH:,}"
    return {"work": work, "unit": "ms", "ours": median(beside), "peer": median(alone)}


@contextmanager
def _send_batches(url: str) -> Iterator[None]:
    """Sends batches from another process while the block runs."""
    process = multiprocessing.get_context("spawn").Process(target=_repeat_batches, args=(url,))
    process.start()
    try:
        time.sleep(2.0)  # it imports, and the first batches are answered
        yield
    finally:
        process.terminate()
        process.join()


def _repeat_batches(url: str) -> None:
    asyncio.run(_repeat_batches_on_one_connection(url))


async def _repeat_batches_on_one_connection(url: str) -> None:
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port, limit=64 << 20)
    instances = [{"user_id": n, "product_id": n, "price": 3.5} for n in range(BATCH)]
    request = encode_request(json.dumps({"instances": instances}).encode(), "/predict/purchase")
    while True:
        writer.write(request)
        await read_answer(reader)


@contextmanager
def run_releaser(settings: Settings) -> Iterator[Connection]:
    """Runs a process that makes each version champion that it is sent, so that the load is not slowed by it."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe()
    process = context.Process(target=_release_versions, args=(settings, receiving))
    process.start()
    try:
        sending.recv()
        yield sending
    finally:
        sending.send(None)
        process.join()


def _release_versions(settings: Settings, pipe: Connection) -> None:
    topics = log.open(settings.log.url)
    releases = [release.make("purchase", [Arm(version)], by="bench", why="bench") for version in VERSIONS]
    for tried in releases:
        try_release(settings, tried, {})
    pipe.send("ready")
    while (version := pipe.recv()) is not None:
        release.append(topics, release.make("purchase", [Arm(version)], by="bench", why="bench"))
    topics.close()


def copy_version(settings: Settings, version: int) -> None:
    """A version with the same model as version 1."""
    shutil.copytree(*(registry.open(settings).bundle_folder("purchase", number) for number in (1, version)))
    _seal(settings, version)


def _put_sklearn_version(settings: Settings, version: int) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from skops.io import dumps

    from headrace.training.trainers.sklearn import MODEL

    values = np.random.default_rng(2).normal(size=(1_000, len(NAMES)))
    estimator = HistGradientBoostingClassifier(max_iter=20).fit(values, values[:, 0] > 0)
    written = {"takes_frame": False, "version": metadata.version("scikit-learn")}
    files = {MODEL: dumps(estimator), "sklearn.json": json.dumps(written).encode()}
    _put_version(settings, version, "sklearn", files)


def _put_network_version(settings: Settings, version: int) -> None:
    """A version with a perceptron of two hidden layers, as the trainer Torch keeps it, with random weights."""
    random, sizes = np.random.default_rng(version), (len(NAMES), 128, 64, 1)
    numbers = random.normal(size=(1_000, len(NAMES))).astype(np.float32)
    weights = tuple(random.normal(size=(b, a)) / a**0.5 for a, b in pairwise(sizes))
    network = Network(Scale.learn(numbers, None), (), weights, tuple(np.zeros(size) for size in sizes[1:]))
    _put_version(settings, version, "torch", {NETWORK: encode_network(network)})


def _put_version(settings: Settings, version: int, trainer: str, files: dict[str, bytes]) -> None:
    """A version with the plan of version 1 and these files of a model."""
    copy_version(settings, version)
    bundle = registry.open(settings).bundle_folder("purchase", version)
    plan = decode_plan((bundle / "plan.json").read_bytes())
    columns = tuple(feature.column for feature in plan.features)
    shutil.rmtree(bundle / "model")
    save_model(bundle / "model", files, ModelMeta(trainer=trainer, encoding=Encoding(columns)))
    _seal(settings, version)


def _seal(settings: Settings, version: int) -> None:
    seal(registry.open(settings).bundle_folder("purchase", version), signing_key(settings))


if __name__ == "__main__":
    main()
