"""Runs as OpenTelemetry spans."""

import contextlib

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from headrace.kernel.run import record_with, run
from headrace.lineage.tracing import SpanRecorder


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def test_a_run_is_a_span_and_its_child_run_a_child_span(spans: InMemorySpanExporter) -> None:
    with record_with(SpanRecorder()), run("build") as outer, run("table a") as inner:
        inner.add_facts(rows=3, password="x")

    child, parent = spans.get_finished_spans()
    assert (child.name, parent.name) == ("table a", "build")
    assert child.parent is not None
    assert child.parent.span_id == parent.context.span_id
    assert child.attributes == {"headrace.run": inner.id, "headrace.rows": 3}
    assert parent.attributes == {"headrace.run": outer.id}


def test_a_failure_is_an_error_without_its_secrets(spans: InMemorySpanExporter) -> None:
    with contextlib.suppress(ValueError), record_with(SpanRecorder()), run("load"):
        raise ValueError("redis://:s3cr3t@host is gone")

    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "redis://:***@host is gone"


def test_without_an_sdk_no_span_is_kept() -> None:
    recorder = SpanRecorder()
    with record_with(recorder), run("build"):
        pass

    assert recorder._spans == {}
