"""A Kafka Connect worker, standalone, on loopback, with Debezium's connector for PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.kernel.ports import find_free_port
from services.server import jars, serving

__all__ = ["Connect", "connect"]

_JAVA = ("java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
         "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")  # fmt: skip


@dataclass(frozen=True)
class Connect:
    """A running worker.

    Attributes:
        url: where its REST interface answers.
        pid: its process.
    """

    url: str
    pid: int

    def start(self, connector: Mapping[str, Any], *, deadline: float = 180.0) -> None:
        """Starts a connector, `{"name": ..., "config": {...}}`, and waits until its task runs.

        A standalone worker knows its connectors no longer when it is started again: start them anew;
        where they had come to is kept in the worker's folder.

        Raises:
            RuntimeError: the worker refuses it, or its task failed or does not run in time.
        """
        name = connector["name"]
        self._asked("PUT", f"/connectors/{name}/config", connector["config"])
        end = time.monotonic() + deadline
        while True:
            tasks = self._asked("GET", f"/connectors/{name}/status").get("tasks", [])
            if tasks and tasks[0]["state"] == "RUNNING":
                return
            if (tasks and tasks[0]["state"] == "FAILED") or time.monotonic() > end:
                raise RuntimeError(f"connector {name} does not run: {tasks}")
            time.sleep(0.05)

    def stop(self, name: str) -> None:
        """Ends a connector; where it had come to is kept."""
        self._asked("DELETE", f"/connectors/{name}")

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self.url + path, None if body is None else json.dumps(body).encode(), method=method,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            if error.code == 404 and method == "GET":
                return {}
            raise RuntimeError(f"Connect answers {error.code}: {error.read()[:1000]!r}") from error


@contextlib.contextmanager
def connect(folder: Path, broker: str, environment: Mapping[str, str] | None = None) -> Iterator[Connect]:
    """A worker whose offsets lie in `folder`; started again there, it goes on where it was.

    Args:
        folder: an existing folder.
        broker: `host:port` of the broker.
        environment: what connectors may refer to, as `${env:NAME}`.
    """
    port = find_free_port()
    plugins = jars("debezium").parent
    values = {
        "bootstrap.servers": broker,
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "offset.storage.file.filename": folder / "offsets",
        "offset.flush.interval.ms": 500,
        "listeners": f"HTTP://127.0.0.1:{port}",
        "plugin.path": plugins,
        "plugin.discovery": "service_load",
        "config.providers": "env",
        "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
    }
    properties = folder / "worker.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    command = [*_JAVA, "-cp", f"{jars('connect')}/*",
               "org.apache.kafka.connect.cli.ConnectStandalone", str(properties)]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with serving(command, lambda: _answers(url), folder=folder, environment=environment) as process:
        yield Connect(url, process.pid)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/connectors", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
