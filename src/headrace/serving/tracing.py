"""Traces of prediction requests: one from the client's request through the lookup to the model.

A request may carry a W3C `traceparent`; its trace goes on here, if the client traces it. Of the others a share
is traced. The spans are exported by OTLP over HTTP from a thread of their own; a request never waits for the
collector, and what it cannot take is dropped.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from random import random
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit

from headrace.config.settings import Settings
from headrace.http.asgi import Scope
from headrace.kernel.errors import ProjectError
from headrace.kernel.extras import require

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

__all__ = ["PredictionSpan", "PredictionSpans", "PredictionTracer", "RequestTracer", "open_tracer"]

_log = logging.getLogger("headrace.serving")
_TIMEOUT = 2.0  # seconds for a batch
_END_SECONDS = 1.0  # for the spans that are left at the end
_request_span: contextvars.ContextVar[Span | None] = contextvars.ContextVar("request_span", default=None)
_NAMES = (b"traceparent", b"tracestate")


class PredictionSpan(NamedTuple):
    """A lookup and the call of the model after it.

    Attributes:
        seconds, lookup_seconds: what both took, and what the lookup took.
        model, version, arm: what predicted.
        rows: how many instances.
        end: when the call ended, nanoseconds since the epoch.
    """

    seconds: float
    lookup_seconds: float
    model: str
    version: int
    arm: str
    rows: int
    end: int


class PredictionTracer(Protocol):
    """Takes the spans of predictions."""

    def add_prediction(
        self, span: PredictionSpan, contexts: Sequence[contextvars.Context] | None = None
    ) -> None:
        """Takes a span of the requests with these contexts, or of the present one."""
        ...


class PredictionSpans:
    """Keeps the spans of predictions, for the process that has the request's trace."""

    def __init__(self) -> None:
        self._spans: list[PredictionSpan] = []

    def add_prediction(
        self, span: PredictionSpan, contexts: Sequence[contextvars.Context] | None = None
    ) -> None:
        """Keeps a span. Every call is of one request here, so its context says nothing."""
        del contexts
        self._spans.append(span)

    def take(self) -> list[PredictionSpan]:
        """The spans since the last call."""
        spans, self._spans = self._spans, []
        return spans


class RequestTracer:
    """Makes the spans of requests.

    Args:
        provider: what exports them.
        share: the share of the requests without a valid `traceparent` that are traced.
    """

    def __init__(self, provider: TracerProvider, share: float = 1.0) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._share = provider, share
        self._tracer = provider.get_tracer("headrace")
        self._propagator = TraceContextTextMapPropagator()

    def trace_request(self, scope: Scope, route: str) -> AbstractContextManager[Span | None]:
        """Traces a request while the block runs, if its client does or the share has room for it.

        The client's span is the parent, if the request names one; a `traceparent` that is not valid counts as
        none. A request that is not traced costs a look at its headers and a random number.
        """
        client = self._extract(scope)
        if client is None and random() >= self._share:  # noqa: S311
            return nullcontext()
        return self._trace(scope, route, client)

    def _extract(self, scope: Scope) -> Context | None:
        """The client's trace; None: the request names none, or not as W3C Trace Context says."""
        headers = [(name, value) for name, value in scope["headers"] if name in _NAMES]
        if not headers:
            return None
        from opentelemetry.trace import get_current_span

        carrier: dict[str, list[str]] = {name.decode(): [] for name in _NAMES}
        for name, value in headers:
            carrier[name.decode()].append(value.decode("latin-1"))
        if len(carrier["traceparent"]) != 1:
            return None
        context = self._propagator.extract(carrier)
        return context if get_current_span(context).get_span_context().is_valid else None

    @contextmanager
    def _trace(self, scope: Scope, route: str, client: Context | None) -> Iterator[Span]:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, Status, StatusCode

        with self._tracer.start_as_current_span(
            f"{scope['method']} {route}",
            context=Context() if client is None else client,
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "http.route": route},
            record_exception=False,  # an error may quote the client's values
            set_status_on_exception=False,
        ) as span:
            token = _request_span.set(span if span.is_recording() else None)
            try:
                yield span
            except Exception:
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                _request_span.reset(token)

    def add_prediction(
        self, span: PredictionSpan, contexts: Sequence[contextvars.Context] | None = None
    ) -> None:
        """Adds the spans of a lookup and the model's call to each of these requests that is traced."""
        parents = [_request_span.get()] if contexts is None else [each.get(_request_span) for each in contexts]
        for parent in parents:
            if parent is not None:
                self._add_children(parent, span)

    def _add_children(self, parent: Span, span: PredictionSpan) -> None:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(parent)
        begin = span.end - round(span.seconds * 1e9)
        looked_up = begin + round(span.lookup_seconds * 1e9)
        attributes: dict[str, str | int] = {
            "headrace.model": span.model,
            "headrace.version": span.version,
            "headrace.arm": span.arm,
            "rows": span.rows,
        }
        lookup = self._tracer.start_span("lookup", context, start_time=begin, attributes=attributes)
        lookup.end(looked_up)
        call = self._tracer.start_span("model", context, start_time=looked_up, attributes=attributes)
        call.end(span.end)

    def close(self) -> None:
        """Exports the spans that are left, and ends the export.

        It takes a second at most. The provider would wait for each batch, however long the collector takes. The
        process does not wait for the thread.
        """
        end = threading.Thread(target=self._provider.shutdown, name="end of traces", daemon=True)
        end.start()
        end.join(_END_SECONDS)
        if end.is_alive():
            _log.warning("spans are lost: the collector did not take them within %g s", _END_SECONDS)


def open_tracer(settings: Settings) -> RequestTracer | None:
    """The tracer of the profile's collector; None: there is none.

    Raises:
        ProjectError: the collector's address is not an HTTP address without a password.
        Unavailable: the extra `otel` is not installed.
    """
    address = settings.tracing.otlp
    if not address:
        return None
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ProjectError(
            "it is not the address of a collector",
            where="headrace.toml: otlp",
            remedy="Write it as http://localhost:4318; keys belong into OTEL_EXPORTER_OTLP_HEADERS.",
        )
    require("opentelemetry.exporter.otlp.proto.http", "tracing", where="headrace.toml: otlp")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

    resource = Resource.create({"service.name": settings.project, "service.namespace": "headrace"})
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{address.rstrip('/')}/v1/traces", timeout=_TIMEOUT)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return RequestTracer(provider, settings.tracing.trace_share)
