"""Load for a server on this machine, by plain sockets: as fast as it answers, or at a steady rate."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import psutil

__all__ = [
    "PRODUCTS",
    "Answer",
    "Load",
    "Rate",
    "Server",
    "encode_request",
    "measure_pace",
    "measure_rate",
    "p99",
    "read_answer",
    "send",
]

PRODUCTS = 10_000
_CONNECTIONS = 16
_LARGEST_ANSWER = 64 << 20


class Server(NamedTuple):
    """A server in its own process.

    Attributes:
        url: its address.
        pid: its process, whose children belong to it.
        others: other processes that it needs for an answer.
    """

    url: str
    pid: int
    others: Sequence[int] = ()

    def cpu_seconds(self) -> float:
        """The processor time that the processes and their children have taken so far."""
        times = [process.cpu_times() for process in self._find_processes()]
        return sum(part.user + part.system for part in times)

    def waiting_seconds(self) -> float:
        """How long their threads have waited for a core so far; NaN if the system does not tell."""
        nanoseconds = 0
        try:
            for process in self._find_processes():
                for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
                    nanoseconds += int(path.read_text().split()[1])
        except OSError:
            return math.nan
        return nanoseconds / 1e9

    def _find_processes(self) -> list[psutil.Process]:
        processes = [psutil.Process(pid) for pid in (self.pid, *self.others)]
        return processes + [child for process in processes for child in process.children(recursive=True)]


class Load(NamedTuple):
    """Requests to a server.

    Attributes:
        server: the server.
        path: their path.
        make_body: the body of a request for the user and the product.
    """

    server: Server
    path: str = "/predict/purchase"
    make_body: Callable[[int, int], bytes] = lambda user, product: (
        b'{"user_id": %d, "product_id": %d, "price": 3.5}' % (user, product)
    )


class Answer(NamedTuple):
    """An answer: when the request was due (perf_counter), the seconds since then, and the body."""

    due: float
    latency: float
    body: bytes


class Rate(NamedTuple):
    """What a server did in a measurement: answers a second, their p50 in ms, processor time of each in µs."""

    rate: float
    p50: float
    cpu: float


def measure_rate(load: Load, seconds: float, connections: int = _CONNECTIONS) -> Rate:
    """Each connection sends the next request as soon as the answer is there."""
    answers: list[Answer] = []
    cpu, started = load.server.cpu_seconds(), time.perf_counter()
    asyncio.run(send(load, None, started + seconds, answers, connections))
    passed = time.perf_counter() - started
    cpu = load.server.cpu_seconds() - cpu
    latencies = [answer.latency for answer in answers]
    return Rate(len(answers) / passed, 1_000 * median(latencies), 1e6 * cpu / len(answers))


def measure_pace(load: Load, rate: float, seconds: float) -> list[float]:
    """The seconds of each request that was due within the time, at this rate over 8 connections.

    A latency counts from the moment that the request was due.
    """
    answers: list[Answer] = []
    asyncio.run(send(load, rate, time.perf_counter() + seconds, answers, 8))
    return [answer.latency for answer in answers]


def p99(latencies: list[float]) -> float:
    """The 99 % quantile in ms."""
    return 1_000 * float(np.percentile(latencies, 99))


async def send(load: Load, rate: float | None, until: float, answers: list[Answer], connections: int) -> None:
    """Sends requests until the time (perf_counter); without a rate as fast as they are answered."""
    started = time.perf_counter()
    await asyncio.gather(
        *(
            _send_on_one(
                load,
                started if rate is None else started + n / rate,
                None if rate is None else connections / rate,
                until,
                answers,
                n,
            )
            for n in range(connections)
        )
    )


async def _send_on_one(
    load: Load, due: float, interval: float | None, until: float, answers: list[Answer], seed: int
) -> None:
    parts = urlsplit(load.server.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_LARGEST_ANSWER)
    products = np.random.default_rng(seed).integers(0, PRODUCTS, 4096).tolist()
    index = 0
    try:
        while due < until:
            if interval is not None:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            index = (index + 1) % 4096
            writer.write(encode_request(load.make_body(index, products[index]), load.path))
            body = await read_answer(reader)
            now = time.perf_counter()
            answers.append(Answer(due, now - due, body))
            due = now if interval is None else due + interval
    finally:
        writer.close()


def encode_request(body: bytes, path: str) -> bytes:
    """The bytes of a request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """The body of the next answer, which must be 200."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    body = await reader.readexactly(int(length.split(b":")[1]))
    if not head.startswith(b"HTTP/1.1 200"):
        sys.exit(f"the answer is {head!r} {body[:200]!r}")
    return body
