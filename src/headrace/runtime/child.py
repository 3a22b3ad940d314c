"""One of the processes that `up` runs: `python -m headrace.runtime.child NAME ROOT PROFILE PORT`.

It ends on SIGTERM, or when the process that started it is gone (kernel.child).
"""

from __future__ import annotations

import importlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace import log as logs
from headrace.config.settings import Settings, load_settings
from headrace.http.serve import serve, signalled
from headrace.kernel.child import end_with_parent, report_alive, report_ready
from headrace.kernel.errors import HeadraceError
from headrace.kernel.secrets import clean_text

__all__ = ["main"]

_GRACE = 10.0  # seconds that work beside has to end


def main(name: str, root: str, profile: str, port: str) -> int:
    """Runs one child until it is told to stop. Returns the exit code."""
    stop = signalled()
    end_with_parent()
    try:
        _WORK[name](load_settings(Path(root), profile), int(port), stop)
    except HeadraceError as error:
        print(clean_text(str(error).replace("\n ", "")), file=sys.stderr)  # noqa: T201  the child's log
        return error.exit_code
    except Exception:
        print(clean_text(traceback.format_exc()), file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _collector(settings: Settings, port: int, stop: threading.Event) -> None:
    from headrace.events.collector.collector import Collector
    from headrace.http.door import Door
    from headrace.projects.project import load_project

    project = load_project(settings, without=["feast"])
    log = logs.open(settings.log_url)
    collector = Collector(project.contracts, log, settings.made_state() / "collector")
    with serve(Door(collector, settings.profile.host), settings.profile.host, port, beat=report_alive):
        report_ready()
        stop.wait()
    log.close()


def _console(settings: Settings, port: int, stop: threading.Event) -> None:
    # The console is a face above the flows: it is named here, not imported.
    console = importlib.import_module("headrace.console.app")
    with serve(console.app(settings), settings.profile.host, port, beat=report_alive):
        report_ready()
        stop.wait()


def _ingest(settings: Settings, port: int, stop: threading.Event) -> None:  # noqa: ARG001
    from headrace.flows.events.ingest import ingest

    with _forwarding(settings), _delivering(settings), _maintenance(settings):
        ingest(settings, stop=stop, renew=True, at_work=report_ready)


@contextmanager
def _maintenance(settings: Settings) -> Iterator[None]:
    """Maintains the tables of the lake now and then until the block ends."""
    from headrace.flows.project.maintain import run_maintenance

    with _beside(run_maintenance, settings):
        yield


@contextmanager
def _forwarding(settings: Settings) -> Iterator[None]:
    """Sends lineage to the profile's endpoints, if it names any, until the block ends."""
    if not settings.profile.lineage:
        yield
        return
    from headrace import lineage
    from headrace.lineage.forward import forward

    with _beside(forward, lineage.open(settings), settings.profile.lineage):
        yield


@contextmanager
def _delivering(settings: Settings) -> Iterator[None]:
    """Takes alerts to the profile's doors, if it names any, until the block ends."""
    if not settings.profile.alerts:
        yield
        return
    from headrace.alerts.channels import doors
    from headrace.alerts.delivery import deliver

    log = logs.open(settings.log_url)
    try:
        with _beside(deliver, doors(settings), log, settings.made_state() / "alerts.json"):
            yield
    finally:
        log.close()


@contextmanager
def _beside(work: Callable[..., None], *arguments: object) -> Iterator[None]:
    """Does the work in a thread until the block ends; its last argument is set then."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(*arguments, ended), name=work.__name__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_GRACE)


_WORK: dict[str, Callable[[Settings, int, threading.Event], None]] = {
    "collector": _collector,
    "console": _console,
    "ingest": _ingest,
}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
