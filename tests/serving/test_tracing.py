"""Traces: from the client's span through lookup to model, at a real OpenTelemetry Collector."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from random import seed

import pytest
from services.otel import Collector, collector
from services.server import Missing
from tests.serving.running import INSTANCE, run_endpoint
from tests.serving.small_project import make_project, plan_of, put_bundle, put_features, put_release
from tests.until import until

from headrace.kernel.errors import ProjectError
from headrace.serving import tracing
from headrace.serving.release import Arm
from headrace.serving.tracing import RequestTracer, open_tracer

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def project(tmp_path, boosters):
    settings, plan = make_project(tmp_path / "p"), plan_of(missing="refuse")
    put_bundle(settings, boosters, 1, plan)
    put_features(settings, plan, {7: (9.5, 190)})
    put_release(settings, Arm(1))
    return settings


@contextmanager
def run_collector(folder: Path) -> Iterator[Collector]:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(collector(folder))
        except Missing as error:
            pytest.skip(str(error))
        yield running


def test_a_trace_goes_from_the_client_through_lookup_to_the_model(project, tmp_path, monkeypatch):
    for limit in ("_TIMEOUT", "_END_SECONDS"):  # a collector that takes long loses spans
        monkeypatch.setattr(tracing, limit, 60.0)
    (tmp_path / "otel").mkdir()
    with run_collector(tmp_path / "otel") as received:
        settings = project.with_values(otlp=received.url, trace_share=1.0)
        with run_endpoint(settings, tracer=open_tracer(settings)) as client:
            for headers in ({"traceparent": CLIENT}, {}, {"traceparent": f"00-{'z' * 32}-{'0' * 16}-01"}):
                assert client.post("/predict/purchase", json=INSTANCE, headers=headers).status_code == 200
            lost = client.post(
                "/predict/purchase", json=INSTANCE | {"product_id": 404}, headers={"traceparent": CLIENT}
            )
            assert lost.status_code == 422
            unsampled = {"traceparent": CLIENT.removesuffix("01") + "00"}
            assert client.post("/predict/purchase", json=INSTANCE, headers=unsampled).status_code == 200
        until(lambda: len(received.spans()) >= 10)
        spans = received.spans()
    assert len(spans) == 10, "three requests of three spans, and the refused one"
    server, refused = [
        span
        for span in spans
        if span.fields["Parent ID"] == PARENT and span.fields["Name"] == "POST /predict/{model}"
    ]
    assert server.fields["Trace ID"] == refused.fields["Trace ID"] == TRACE
    assert server.fields["Kind"] == "Server"
    assert (server.fields["Status code"], refused.fields["Status code"]) == ("Unset", "Error")
    children = [span for span in spans if span.fields["Parent ID"] == server.fields["ID"]]
    assert [child.fields["Name"] for child in children] == ["lookup", "model"]
    for child in children:
        assert child.fields["Trace ID"] == TRACE
        expected = {"headrace.model": "purchase", "headrace.version": "1", "headrace.arm": "champion"}
        assert child.attributes == expected | {"rows": "1"}
    others = [span for span in spans if span.fields["Trace ID"] != TRACE]
    assert len({span.fields["Trace ID"] for span in others}) == 2, "an invalid traceparent begins a trace"


def test_a_collector_that_is_away_delays_no_request(project):
    settings = project.with_values(otlp="http://127.0.0.1:9", trace_share=1.0)
    with run_endpoint(settings, tracer=open_tracer(settings)) as client:
        for _ in range(3):
            assert client.post("/predict/purchase", json=INSTANCE).status_code == 200


def test_a_collector_that_never_answers_does_not_delay_the_end(project, monkeypatch, caplog):
    """Spans of several batches wait, and a batch may take ten minutes."""
    monkeypatch.setattr(tracing, "_TIMEOUT", 600.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracer = open_tracer(project.with_values(otlp=address, trace_share=1.0))
        scope = {"method": "POST", "headers": []}
        for _ in range(1_500):
            with tracer.trace_request(scope, "/predict/{model}"):
                pass
        end = threading.Thread(target=tracer.close, daemon=True)
        end.start()
        end.join(60)
        assert not end.is_alive()
    assert "spans are lost" in caplog.text


def test_a_share_of_the_requests_is_traced_and_each_that_its_client_traces(project):
    seed(17)
    names = {}
    for share in (0.0, 0.25, 1.0):
        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        with run_endpoint(project, tracer=RequestTracer(provider, share)) as client:
            for _ in range(200):
                assert client.post("/predict/purchase", json=INSTANCE).status_code == 200
            client.post("/predict/purchase", json=INSTANCE, headers={"traceparent": CLIENT})
        spans = exporter.get_finished_spans()
        of_client = [span.name for span in spans if span.context.trace_id == int(TRACE, 16)]
        assert sorted(of_client) == ["POST /predict/{model}", "lookup", "model"]
        names[share] = Counter(span.name for span in spans) - Counter(of_client)
    whole = ("POST /predict/{model}", "lookup", "model")
    assert names[0.0] == {}
    assert names[1.0] == dict.fromkeys(whole, 200)
    assert len(set(names[0.25].values())) == 1, "a request is traced whole or not at all"
    assert 15 < names[0.25]["model"] < 90  # outside by chance once in 10^9


def test_only_a_valid_traceparent_is_taken_up(project):
    """As W3C Trace Context says. A later version may add fields, and is read as far as it is known."""
    valid = [
        CLIENT,
        f"01-{TRACE}-{PARENT}-01",
        f"01-{TRACE}-{PARENT}-01-what-comes",
        f"fe-{TRACE}-{PARENT}-01-x",
    ]
    invalid = [
        "",
        "00",
        "é" * 55,
        f"{CLIENT}-extra",
        f"ff-{TRACE}-{PARENT}-01",
        f"01-{TRACE}-{PARENT}-01.x",
        f"01-{TRACE}-{PARENT}-011",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0",
        f"00-{TRACE}-{PARENT}-zz",
        CLIENT * 20,
    ]
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with run_endpoint(project, tracer=RequestTracer(provider, 0.0)) as client:
        for parent, state in product(valid + invalid, ("a=1,b=2", "é=\xff", ",;=", "a=" + "x" * 9_000)):
            exporter.clear()
            headers = {"traceparent": parent.encode(), "tracestate": state.encode()}
            assert client.post("/predict/purchase", json=INSTANCE, headers=headers).status_code == 200
            if parent in valid:
                await_trace(exporter)
            traces = {(span.context.trace_id, span.context.is_valid) for span in exporter.get_finished_spans()}
            assert traces == ({(int(TRACE, 16), True)} if parent in valid else set()), parent
        exporter.clear()
        twice = [("traceparent", CLIENT), ("traceparent", CLIENT.replace("b7", "b8"))]
        assert client.post("/predict/purchase", json=INSTANCE, headers=twice).status_code == 200
        assert exporter.get_finished_spans() == ()
        several = [("traceparent", CLIENT), ("tracestate", "a=1"), ("tracestate", "b=2")]
        assert client.post("/predict/purchase", json=INSTANCE, headers=several).status_code == 200
        await_trace(exporter)
        states = {span.context.trace_state.to_header() for span in exporter.get_finished_spans()}
        assert states == {"a=1,b=2"}


def await_trace(exporter):
    """Waits until the request's own span has ended, too, which is after its client has the answer."""
    until(lambda: len(exporter.get_finished_spans()) == 3)


@pytest.mark.parametrize("address", ["localhost:4318", "ftp://localhost", "http://", "http://a:b@localhost"])
def test_an_address_of_no_collector_is_refused(project, address):
    with pytest.raises(ProjectError, match="not the address of a collector") as caught:
        open_tracer(project.with_values(otlp=address))
    assert "b@" not in str(caught.value)


def test_without_an_address_nothing_is_traced(project):
    assert open_tracer(project) is None
