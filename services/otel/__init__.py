"""An OpenTelemetry Collector on loopback, which takes OTLP over HTTP and writes each span to its log."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.kernel.ports import find_free_port
from services.server import HERE, accepts, go_program, serving

__all__ = ["Collector", "ReceivedSpan", "collector"]

_BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.150.0"
_CONFIG = """
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}
exporters:
  debug: {{verbosity: detailed}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [debug]}}
"""
_FIELD = re.compile(r"^    (Trace ID|Parent ID|ID|Name|Kind|Status code) +: ?(.*)$", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^     -> ([\w.]+): \w+\((.*)\)$", re.MULTILINE)


@dataclass(frozen=True)
class ReceivedSpan:
    """A span that the collector received.

    Attributes:
        fields: `Trace ID`, `Parent ID`, `ID`, `Name`, `Kind` and `Status code`.
        attributes: its attributes, as text.
    """

    fields: dict[str, str]
    attributes: dict[str, str]


@dataclass(frozen=True)
class Collector:
    """A running collector.

    Attributes:
        url: what a profile's `otlp` setting takes.
        pid: its process.
        log: where it writes what it receives.
    """

    url: str
    pid: int
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """Where it is, for any profile."""
        return {"HEADRACE_OTLP": self.url}

    def spans(self) -> list[ReceivedSpan]:
        """The spans that it has received."""
        parts = re.split(r"^Span #\d+$", self.log.read_text(errors="replace"), flags=re.MULTILINE)[1:]
        return [ReceivedSpan(dict(_FIELD.findall(part)), dict(_ATTRIBUTE.findall(part))) for part in parts]


@contextlib.contextmanager
def collector(folder: Path) -> Iterator[Collector]:
    """A collector with its log in `folder`.

    Raises:
        Missing: there is no Go to build it with.
    """
    port = find_free_port()
    config = folder / "otel.yaml"
    config.write_text(_CONFIG.format(port=port))
    command = [str(_program()), "--config", str(config)]
    with serving(command, lambda: accepts(port), folder=folder) as process:
        yield Collector(f"http://127.0.0.1:{port}", process.pid, folder / "server.log")


def _program() -> Path:
    return go_program(
        "otel",
        "otelcol",
        ["go", "install", _BUILDER],
        ["./builder", "--config", str(HERE / "otel" / "builder.yaml")],
        ["mv", "sources/otelcol", "otelcol"],
    )
