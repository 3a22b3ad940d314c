"""What the predict endpoint costs beside itself: with everything on, with several arms, with two replicas.

    python bench/serving_limits.py [--json] [--seconds 2] [--rounds 3]

Each figure compares two deployments of the same project, which run throughout and are measured in turn; the
figures are medians of the rounds:

- answers a second with log, metrics and traces on, with a split of three versions besides, and (the peer) with
  all of them off;
- p99 at half of the peak, beside bare uvicorn's at the same rate; p50 of 100 rows a request;
- p50 of a split of three versions with a shadow at half of its peak, beside one version's at the same rate;
- answers a second of two replicas, beside one. The load takes a part of a processor, so on two processors the
  processor time of an answer says more.

Processor times are those of the deployment, with the supervision and the shipping of predictions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from threading import Thread
from unittest import mock

from headrace import log
from headrace.config.settings import Settings
from headrace.serving import release
from headrace.serving.release import Arm
from serving import make_project, run_bare, run_ours, run_process
from steady import copy_version
from workloads.requests import Load, Rate, Server, measure_pace, measure_rate, p99

ARMS = (Arm(1, 0.5), Arm(2, 0.3, name="b"), Arm(3, 0.2, name="c"))
ROWS = 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true", help="taken by every benchmark")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    length = options.seconds, options.rounds
    try:
        compare_on_and_off(folder, *length)
        compare_with_bare(folder, *length)
        compare_arms(folder, *length)
        compare_replicas(folder, *length)
    finally:
        shutil.rmtree(folder)


def compare_on_and_off(folder: Path, seconds: float, rounds: int) -> None:
    """Log, metrics and traces (of the share that is the default) on, a split besides, and all of them off.

    The arms of a split share no call of a model: three versions are three calls for the requests of a turn.
    """
    single, whole = _make(folder / "on", Arm(1)), _make(folder / "split", *ARMS)
    with ExitStack() as stack:
        off = stack.enter_context(run_process(_serve_without, _make(folder / "off", Arm(1))))
        collector = stack.enter_context(run_process(_serve_collector, whole))
        with mock.patch.dict(os.environ, HEADRACE_OTLP=collector.url):  # the replicas read it
            on, split = (stack.enter_context(run_ours(settings)) for settings in (single, whole))
        _report_rates("with log, metrics and traces", on, off, seconds, rounds)
        _report_rates("with split, log, metrics and traces", split, off, seconds, rounds)


def compare_with_bare(folder: Path, seconds: float, rounds: int) -> None:
    """At half of the peak beside bare uvicorn, and with many rows a request."""
    settings = _make(folder / "half", *ARMS)
    with run_ours(settings) as ours, run_bare(settings) as bare:
        rate = _find_peak(ours, seconds) / 2
        own, other, rows = [], [], []
        for _ in range(rounds):
            own.append(p99(measure_pace(Load(ours), rate, seconds)))
            other.append(p99(measure_pace(Load(bare), rate, seconds)))
            rows.append(measure_rate(Load(ours, make_body=_make_rows), seconds, connections=1).p50)
    _report(f"p99 at half of the peak, {rate:,.0f}/s", "ms", own, other)
    _report(f"p50 of {ROWS} rows a request", "ms", rows)


def compare_arms(folder: Path, seconds: float, rounds: int) -> None:
    """Three versions and a shadow beside one version, at half of the peak of the former."""
    several = _make(folder / "several", *ARMS, Arm(4, shadow=True, name="shadow"))
    with run_ours(several) as ours, run_ours(_make(folder / "single", Arm(1))) as single:
        rate = _find_peak(ours, seconds) / 2
        measure_rate(Load(single), seconds)
        own, other = [], []
        for _ in range(rounds):
            own.append(1_000 * median(measure_pace(Load(ours), rate, seconds)))
            other.append(1_000 * median(measure_pace(Load(single), rate, seconds)))
    _report(f"p50 of three versions and a shadow at {rate:,.0f}/s", "ms", own, other)


def compare_replicas(folder: Path, seconds: float, rounds: int) -> None:
    """Two replicas beside one."""
    two = _make(folder / "two", Arm(1)).with_values(replicas=2)
    with run_ours(two) as ours, run_ours(_make(folder / "one", Arm(1))) as single:
        _report_rates("of two replicas", ours, single, seconds, rounds)


def _report_rates(what: str, ours: Server, peer: Server, seconds: float, rounds: int) -> None:
    own: list[Rate] = []
    other: list[Rate] = []
    for server in (ours, peer):
        measure_rate(Load(server), 0.5)
    for _ in range(rounds):
        own.append(measure_rate(Load(ours), seconds))
        other.append(measure_rate(Load(peer), seconds))
    _report(f"predictions {what}", "/s", [rate.rate for rate in own], [rate.rate for rate in other])
    _report(f"processor time {what}", "µs", [rate.cpu for rate in own], [rate.cpu for rate in other])


def _report(work: str, unit: str, own: list[float], peer: list[float] | None = None) -> None:
    """Prints a figure as one object."""
    figure: dict[str, object] = {"work": work, "unit": unit, "ours": median(own)}
    if peer is not None:
        figure |= {"peer": median(peer), "ratio": median(own) / median(peer)}
    print(json.dumps(figure), flush=True)


def _find_peak(server: Server, seconds: float) -> float:
    measure_rate(Load(server), 0.5)
    return measure_rate(Load(server), seconds).rate


def _make(root: Path, *arms: Arm) -> Settings:
    """A project with four equal versions, of which these arms are released."""
    settings = make_project(root)
    for version in (2, 3, 4):
        copy_version(settings, version)
    topics = log.open(settings.log.url)
    release.append(topics, release.make("purchase", list(arms), by="bench", why="bench"))
    topics.close()
    return settings


def _make_rows(user: int, product: int) -> bytes:
    instances = [{"user_id": user + n, "product_id": (product + n) % 10_000, "price": 3.5} for n in range(ROWS)]
    return json.dumps({"instances": instances}).encode()


class _Silent:
    """Any attribute of it, and what it returns, is itself. It costs less than a mock."""

    def __getattr__(self, _name: str) -> _Silent:
        return self

    def __call__(self, *_arguments: object, **_options: object) -> _Silent:
        return self


_SILENT = _Silent()


def _serve_without(settings: Settings, pipe: Connection) -> None:
    """The endpoint of one replica that neither logs nor counts."""
    from headrace.http.serve import serve
    from headrace.serving.deployment.replica import shorten_turns
    from headrace.serving.endpoint import Endpoint
    from headrace.serving.metrics import Metrics
    from headrace.serving.models import Models
    from headrace.serving.predictor import SpoolingPredictor

    shorten_turns()
    with ExitStack() as stack:
        silenced = (
            (SpoolingPredictor, "_append_to_spool"),
            (SpoolingPredictor, "complete_together"),
            (Metrics, "count_answer"),
        )
        for owner, name in silenced:
            stack.enter_context(mock.patch.object(owner, name, _SILENT))
        stack.enter_context(mock.patch.object(Metrics, "arm", _SILENT))
        endpoint = Endpoint(Models(settings), settings.place("serving"), "127.0.0.1")
        with serve(endpoint.app, "127.0.0.1", 0) as server:
            pipe.send(server.url)
            pipe.poll(None)
        endpoint.close()


def _serve_collector(_settings: Settings, pipe: Connection) -> None:
    """Takes spans and drops them."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        pipe.send(f"http://127.0.0.1:{server.server_address[1]}")
        pipe.poll(None)
        server.shutdown()


if __name__ == "__main__":
    main()
