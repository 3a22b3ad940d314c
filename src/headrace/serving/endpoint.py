"""Endpoint: the HTTP application of one replica, in every listed protocol. It does not depend on Ray.

Its routes are those of headrace.serving.protocols, and

GET  /healthz
GET  /metrics          Prometheus' text format
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from headrace.http.asgi import App, Receive, Scope, Send
from headrace.http.middleware import GuardMiddleware
from headrace.http.responses import HttpError, error_body, send_body
from headrace.kernel.private import make_private
from headrace.serving.handler import RequestHandler
from headrace.serving.metrics import Metrics, to_text
from headrace.serving.metrics_slot import MetricsSlot
from headrace.serving.models import Models
from headrace.serving.prediction import TOPIC
from headrace.serving.predictor import SpoolingPredictor
from headrace.serving.protocols import PROTOCOLS
from headrace.serving.protocols.port import JSON, PostRoute, PredictRoute, ReadRoute, Route
from headrace.serving.protocols.status import to_response_error
from headrace.serving.slots import REPLICAS, take_slot
from headrace.serving.spool import MAX_BYTES, measure_spool
from headrace.serving.tracing import RequestTracer

__all__ = ["MAX_BODY", "Endpoint", "reserved_names"]

_log = logging.getLogger("headrace.serving")
MAX_BODY = 16 << 20  # bytes
_PROBES = frozenset({"/healthz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"})
_PATIENCE = 0.5  # seconds for the thread that follows the releases to end; a server may not answer it
_MAX_OTHERS = 1_000  # requests in progress for other things than predictions and features, such as probes
_POLL = 0.5  # seconds between two polls of the releases
_BEHIND = 5.0  # seconds between two looks at how far the windowed views are behind
_CompiledRoute = tuple[re.Pattern[str], Route, Callable[[HttpError], bytes]]
_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Endpoint:
    """Answers prediction requests in each of the listed protocols.

    Args:
        models: the models to predict with.
        folder: the folder of the replicas: predictions until they are on the log (`spool`), counts (`metrics`).
        host: the address that clients connect to. On loopback, requests to localhost are answered; on any other
            address, requests with a token.
        token_files: files with the tokens that are accepted beside HEADRACE_TOKEN.
        open_metrics: whether GET /metrics needs no token.
        tracer: makes spans of each request; None: there are no traces.

    Attributes:
        app: the ASGI application.
    """

    def __init__(
        self,
        models: Models,
        folder: Path,
        host: str,
        *,
        token_files: Sequence[Path] = (),
        open_metrics: bool = False,
        tracer: RequestTracer | None = None,
    ) -> None:
        self._models = models
        self._replica_lock, _ = take_slot(make_private(folder / REPLICAS))
        self._slot, self._spool_folder = MetricsSlot(folder / "metrics"), folder / "spool"
        self._metrics, self._tracer = Metrics(self._slot.counts), tracer
        self._predictor = SpoolingPredictor(
            self._spool_folder, self._metrics, tracer, models.settings.serving.spool_limit
        )
        self._update_max_bytes()
        self._handler = RequestHandler(models, self._predictor, self._metrics, folder, tracer)
        self._routes = self._collect_routes()
        # Its own thread: those of asyncio may all wait for the online store.
        self._metrics_reader = ThreadPoolExecutor(1, "metrics")
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow_releases, name="releases", daemon=True)
        self._follower.start()
        self.app: App = GuardMiddleware(
            self._handle,
            host,
            token_files=token_files,
            open_paths=_PROBES | {"/metrics"} if open_metrics else _PROBES,
            max_body=MAX_BODY,
            max_requests=models.settings.serving.max_requests + _MAX_OTHERS,
            content_types=frozenset({JSON}),
            more_types=self._find_content_types,
            encode_error=self._encode_error,
        )

    def close(self) -> None:
        """Ends the thread that follows the releases, and completes the spool file.

        If that thread waits for a server that does not answer, it is left alone, with the connections that it
        uses: it ends with the process.
        """
        self._stop.set()
        self._follower.join(_PATIENCE)
        self._handler.close()
        self._predictor.close()
        self._metrics_reader.shutdown()
        if not self._follower.is_alive():
            self._models.close()
        self._slot.close(self._metrics.counts)
        self._replica_lock.close()
        if self._tracer is not None:
            self._tracer.close()

    def _follow_releases(self) -> None:
        due = 0.0
        while not self._stop.wait(_POLL):
            self._slot.write(self._metrics.counts)
            try:
                if self._models.poll():
                    self._handler.follow_releases()
                self._update_max_bytes()
                if time.monotonic() >= due:
                    due = time.monotonic() + _BEHIND
                    self._metrics.behind = self._models.count_events_behind()
            except Exception as error:  # the present releases stay in force, and the next poll may succeed
                _log.error("the releases cannot be followed: %s", error)

    def _update_max_bytes(self) -> None:
        """Updates the largest record that may be returned: a larger one could not be shipped."""
        largest = self._models.max_record_bytes(TOPIC)
        if largest is not None:
            self._predictor.max_bytes = min(largest, MAX_BYTES)

    def _collect_routes(self) -> list[_CompiledRoute]:
        builtin = (
            ReadRoute("/healthz", _read_health, "Whether the process is alive"),
            ReadRoute("/metrics", self._read_metrics, "Prometheus' metrics", _METRICS_TYPE, reads_files=True),
        )
        routes: list[_CompiledRoute]
        routes = [(_compile_path(route.path), route, error_body) for route in builtin]
        for protocol in PROTOCOLS:
            routes += [(_compile_path(route.path), route, protocol.encode_error) for route in protocol.ROUTES]
        return routes

    def _read_metrics(self, _models: Models, _names: Mapping[str, str]) -> bytes:
        return to_text(
            self._slot.sum(self._metrics.counts), self._metrics.behind, measure_spool(self._spool_folder)
        )

    async def _read_apart(self, read: Callable[[], bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._metrics_reader, read)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _handle_lifespan(receive, send)
            return
        for pattern, route, _ in self._routes:
            match = pattern.fullmatch(scope["path"])
            if match is None or (route.path.startswith("/{") and not self._models.has(match["model"])):
                continue
            allowed = "GET" if isinstance(route, ReadRoute) else "POST"
            if scope["method"] != allowed:
                raise HttpError(405, "method", f"Use {allowed}.", headers={"Allow": allowed})
            if isinstance(route, PredictRoute):
                if self._tracer is None:
                    await self._handler.predict(route, match.groupdict(), scope, receive, send)
                else:
                    with self._tracer.trace_request(scope, route.path):
                        await self._handler.predict(route, match.groupdict(), scope, receive, send)
            elif isinstance(route, PostRoute):
                await self._handler.answer_post(route, scope, receive, send)
            else:
                read = partial(_read, route, self._models, match)
                content = await self._read_apart(read) if route.reads_files else read()
                await send_body(send, 200, content, route.content_type)
            return
        raise HttpError(404, "not_found", f"There is nothing at {scope['path']}.")

    def _find_content_types(self, scope: Scope) -> frozenset[bytes]:
        """The types of a body that the path takes."""
        for pattern, route, _ in self._routes:
            if isinstance(route, PredictRoute) and pattern.fullmatch(scope["path"]):
                return route.content_types
        return frozenset()

    def _encode_error(self, scope: Scope, error: HttpError) -> bytes:
        """The body of an error in the protocol that the path belongs to."""
        for pattern, _, encode in self._routes:
            if pattern.fullmatch(scope["path"]):
                return encode(error)
        return error_body(error)


def reserved_names() -> set[str]:
    """The first parts of the endpoint's own paths, which cannot be the name of a model."""
    paths = [route.path for protocol in PROTOCOLS for route in protocol.ROUTES] + ["/healthz", "/metrics"]
    return {name for path in paths if not (name := path.split("/")[1]).startswith("{")}


def _compile_path(path: str) -> re.Pattern[str]:
    """A pattern with a group for each name in braces, which is one part of the path."""
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]*)", re.escape(path)))


def _read(route: ReadRoute, models: Models, match: re.Match[str]) -> bytes:
    try:
        return route.read(models, match.groupdict())
    except Exception as error:
        failure = to_response_error(error)
        if failure.status >= 500:
            raise
        raise failure from error


def _read_health(models: Models, _names: object) -> bytes:
    return msgspec.json.encode({"status": "ok", "models": models.names})


async def _handle_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
