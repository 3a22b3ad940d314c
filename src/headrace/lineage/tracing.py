"""Tracing: every run as an OpenTelemetry span. It uses only the API, which does nothing without an SDK."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from headrace.kernel.properties import PREFIX, RUN
from headrace.kernel.run import RunEvent
from headrace.kernel.secrets import clean, clean_text
from headrace.kernel.time import micros

__all__ = ["SpanRecorder"]


class SpanRecorder:
    """A kernel.run.Recorder that makes a span of each run, as a child of its parent run's span."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("headrace")
        self._spans: dict[str, Span] = {}

    def record(self, event: RunEvent) -> None:
        """Starts the run's span at START and ends it when the run ends; its facts become attributes."""
        run = event.run
        if event.outcome == "START":
            parent = self._spans.get(run.parent.id) if run.parent else None
            self._spans[run.id] = self._tracer.start_span(
                run.job,
                context=None if parent is None else trace.set_span_in_context(parent),
                attributes={RUN: run.id},
                start_time=micros(run.started) * 1000,
            )
            return
        if event.outcome == "RUNNING":
            return
        span = self._spans.pop(run.id, None)
        if span is None:
            return
        for name, value in clean(run.facts).items():
            plain = value if isinstance(value, (str, bool, int, float)) else str(value)
            span.set_attribute(f"{PREFIX}{name}", plain)
        if event.error is not None:
            span.set_status(Status(StatusCode.ERROR, clean_text(str(event.error))))
        span.end(end_time=micros(event.time) * 1000)
