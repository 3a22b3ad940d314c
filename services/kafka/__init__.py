"""A Kafka broker in KRaft mode, one node, on loopback."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.server import accepts, free_port, jars, serving

__all__ = ["Broker", "broker"]

_JAVA = ("java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-XX:+UseSerialGC", "-Xms64m", "-Xss512k",
         "-XX:MaxDirectMemorySize=128m", "-XX:TieredStopAtLevel=1")  # fmt: skip
_ONE = (
    "log.cleaner.threads",
    "num.partitions",
    *(f"offsets.topic.{what}" for what in ("num.partitions", "replication.factor")),
    *(
        f"{topic}.{what}"
        for topic in ("transaction.state.log", "share.coordinator.state.topic")
        for what in ("num.partitions", "replication.factor", "min.isr")
    ),
)


@dataclass(frozen=True)
class Broker:
    """A running broker.

    Attributes:
        url: what a profile's `log` setting takes.
        port: its port on the loopback address.
        pid: its process.
    """

    url: str
    port: int
    pid: int


@contextlib.contextmanager
def broker(
    folder: Path, port: int | None = None, settings: Mapping[str, object] | None = None
) -> Iterator[Broker]:
    """A broker whose data lie in `folder`; started again there, it has what it had.

    Args:
        folder: an existing folder.
        port: the port to listen on; a free one where none is named.
        settings: more of the broker's own settings.
    """
    classpath = f"{jars('kafka')}/*"
    port, controller = port or free_port(), free_port()
    properties = folder / "server.properties"
    values = {**_properties(folder / "data", port, controller), **(settings or {})}
    properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    if not (folder / "data").exists():
        subprocess.run(
            [*_JAVA, "-cp", classpath, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg",
             "-c", str(properties)],
            check=True, capture_output=True,
        )  # fmt: skip
    command = [*_JAVA, "-Xmx192m", "-cp", classpath, "kafka.Kafka", str(properties)]
    with serving(command, lambda: accepts(port), folder=folder) as process:
        yield Broker(f"kafka://127.0.0.1:{port}", port, process.pid)


def _properties(data: Path, port: int, controller: int) -> dict[str, object]:
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        "group.initial.rebalance.delay.ms": 0,
        "log.cleaner.dedupe.buffer.size": 8_388_608,
        **dict.fromkeys(_ONE, 1),
    }
