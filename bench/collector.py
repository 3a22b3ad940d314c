"""The rate of the collector over HTTP, in events a second: 64 connections, every answer durable."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace import log as logs
from headrace.declare.event import contract_of, event
from headrace.events.collector.collector import Collector
from headrace.http.middleware import GuardMiddleware
from headrace.http.serve import serve, stop_on_signals

CONNECTIONS = 64
SECONDS = 5.0


@event(topic="clicks", time="at", key="user", identity=["user", "at"], dedup_within="1d")
class Click(Struct):
    at: datetime
    user: int
    kind: Literal["view", "buy"]
    price: Annotated[float, Meta(gt=0)]


def run_collector(folder: Path) -> None:
    """Runs the collector in this process until a signal ends it; prints its port."""
    stop = stop_on_signals()
    contract = contract_of(Click)
    assert contract is not None
    log = logs.open(f"sqlite://{folder / 'log'}")
    with serve(
        GuardMiddleware(Collector({"clicks": contract}, log, folder), "127.0.0.1"), "127.0.0.1", 0
    ) as server:
        print(server.port, flush=True)
        stop.wait()


def measure_rate(port: int, events: int) -> float:
    """Posts requests of so many events for SECONDS; returns events a second."""
    row = {"at": "2024-05-01T10:00:00Z", "user": 7, "kind": "view", "price": 1.5}
    body = json.dumps([row] * events if events > 1 else row).encode()
    head = (
        "POST /events/clicks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    counts = [0] * CONNECTIONS
    end = time.monotonic() + SECONDS
    threads = [
        threading.Thread(target=_post_repeatedly, args=(port, request, end, counts, n))
        for n in range(CONNECTIONS)
    ]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * events / (time.monotonic() - start)


def _post_repeatedly(port: int, request: bytes, end: float, counts: list[int], index: int) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", port)) as connection:
        while time.monotonic() < end:
            connection.sendall(request)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 202"), answer[:200]
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            received = len(answer.partition(b"\r\n\r\n")[2])
            while received < length:
                received += len(connection.recv(65536))
            counts[index] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object a line (the only form)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run_collector(options.serve)
        return
    for events in (1, 1000):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--serve", folder]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                port = int(process.stdout.readline())
                try:
                    rate = measure_rate(port, events)
                finally:
                    process.terminate()
        work = f"collector, {CONNECTIONS} connections, {events} events a request"
        print(json.dumps({"work": work, "ours": round(rate), "unit": "events/s"}), flush=True)


if __name__ == "__main__":
    main()
