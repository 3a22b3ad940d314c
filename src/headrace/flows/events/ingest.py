"""ingest: the log into the topics' tables, and into the online state, until stopped or at the end."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import pyarrow as pa

from headrace import lake, lineage, log
from headrace.code.source_files import stamp
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.events.contracts.description import described
from headrace.events.ingest.adoption import kept
from headrace.events.ingest.forward import ForwardSink
from headrace.events.ingest.ingest import Progress, Sink, ingest_all
from headrace.events.ingest.watch import Watch
from headrace.features import online as online_stores
from headrace.features.offline.rowwise import codes_of, is_of_other_code
from headrace.features.online import OnlineStore
from headrace.features.online.follow import OnlineSink
from headrace.features.plan import StoredView, WindowedView
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.run import recorder_added
from headrace.lake import Lake
from headrace.log import Log
from headrace.projects.loader import project_files
from headrace.projects.project import Project, load_project
from headrace.serving.topics import system_contracts

if TYPE_CHECKING:
    from headrace.events.formats.registry import SchemaRegistry

__all__ = ["IngestReport", "Renew", "Topic", "ingest", "registry_of"]

_LOOK = 2.0  # seconds between two looks for newer code


@dataclass
class Topic:
    """What was ingested of one topic.

    Attributes:
        extra: field that the contract does not name → events with it.
        lost: how many events, at most, the log had forgotten before they were read.
    """

    topic: str
    events: int = 0
    good: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    extra: Counter[str] = field(default_factory=Counter)
    lost: int = 0

    def add(self, one: Progress) -> None:
        """Adds a commit."""
        self.events += one.events
        self.good += one.good
        self.refused.update(one.refused)
        self.extra.update(one.extra)
        self.lost += one.lost


@dataclass(frozen=True)
class IngestReport:
    """What was ingested.

    Attributes:
        topics: by topic; those without new events are not named.
        seconds: wall time.
    """

    topics: dict[str, Topic]
    seconds: float

    @property
    def events(self) -> int:
        """How many events, good and refused."""
        return sum(one.events for one in self.topics.values())


def ingest(
    settings: Settings,
    topics: Sequence[str] = (),
    *,
    until_end: bool = False,
    stop: threading.Event | None = None,
    renew: bool = False,
    at_work: Callable[[], None] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> IngestReport:
    """Ingests the topics (default: every one with a contract), each event exactly once.

    Killed at any point, the next call goes on from the last commit.

    Args:
        settings: whose project.
        topics: which.
        until_end: return when what the log held at the call is in the tables; else run until `stop`.
        stop: set from another thread, it ends the work after the batch that is being written.
        renew: end with Renew when the project's files hold newer code, and a build has filled a view with
            it or another ingest has taken a contract of it up: for a caller that starts a new process then.
        at_work: called once, when every topic is followed, or another process follows it.
        progress: is told of each commit, from the topics' threads.

    Raises:
        CallError: a topic has no contract.
        ProjectError: events are to be forwarded, and the log is not on Kafka.
        Refused: a topic was made again since its table last read it.
        Unavailable: log, lake or online store is away.
        Renew: see `renew`.
    """
    begun = perf_counter()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own would keep what an upkeep took for its seconds
    project = load_project(settings, without=("feast",))
    contracts = [project.contract(name) for name in topics] or list(project.contracts.values())
    found: dict[str, Topic] = {}
    stop = stop or threading.Event()
    with ExitStack() as stack:
        store = stack.enter_context(closing(lineage.open(settings)))
        opened = stack.enter_context(closing(log.open(settings.log_url)))
        online = stack.enter_context(closing(online_stores.open(settings.online_url)))
        opened_lake = lake.open(settings)
        if not topics:  # the product's own topics, once there is something on them
            contracts += [one for one in system_contracts() if one.topic in opened.topics()]
        sinks = stack.enter_context(closing(_Sinks(project, opened, online)))
        stack.enter_context(recorder_added(store.recorder()))
        watch = stack.enter_context(Watch(contracts, opened, opened_lake))
        new_code = stack.enter_context(_NewCode(project, contracts, opened_lake, online, stop, wanted=renew))

        def tell(one: Progress) -> None:
            found.setdefault(one.topic, Topic(one.topic)).add(one)
            watch.committed(one.topic)
            progress(one)

        ingest_all(
            contracts, opened, opened_lake, until_end=until_end, stop=stop, sinks_of=sinks.of, tell=tell,
            registry=registry_of(settings), at_work=at_work,
        )  # fmt: skip
    new_code.check()
    return IngestReport(found, perf_counter() - begun)


class _Sinks:
    """What takes a topic's events beside its table."""

    def __init__(self, project: Project, opened: Log, online: OnlineStore) -> None:
        self._project, self._log, self._online = project, opened, online
        self._forwarding: list[ForwardSink] = []

    def of(self, contract: Contract) -> list[Sink]:
        """A topic's sinks. Raises ProjectError where events are to be forwarded on a log that cannot."""
        sinks: list[Sink] = [OnlineSink(self._project, contract, self._online)]
        if contract.forward is not None:
            self._forwarding.append(ForwardSink(contract, self._log))
            sinks.append(self._forwarding[-1])
        return sinks

    def close(self) -> None:
        """Ends those that hold on to something."""
        for sink in self._forwarding:
            sink.close()


def registry_of(settings: Settings) -> SchemaRegistry | None:
    """The profile's schema registry, if it names one."""
    if not settings.profile.registry:
        return None
    from headrace.events.formats.registry import SchemaRegistry

    return SchemaRegistry(settings.profile.registry)


class Renew(Unavailable):
    """The work is to begin again in a new process, with the newer code."""

    exit_code = os.EX_TEMPFAIL


class _NewCode:
    """Looks now and then whether the project's files hold newer code than is loaded, and a build has filled
    a view with it, or another ingest has taken a contract of it up. Then the work is stopped, for a new process
    to go on with."""

    def __init__(
        self,
        project: Project,
        contracts: Sequence[Contract],
        opened_lake: Lake,
        store: OnlineStore,
        stop: threading.Event,
        *,
        wanted: bool,
    ) -> None:
        self._project, self._lake, self._store, self._stop = project, opened_lake, store, stop
        self._loaded = codes_of(project)
        self._contracts = contracts
        self._files = _stamps(project.settings)
        self._ended = threading.Event()
        self._found: str | None = None
        self._thread = threading.Thread(target=self._look, name="new-code", daemon=True) if wanted else None

    def __enter__(self) -> _NewCode:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Raises Renew where newer code was found."""
        if self._found is not None:
            raise Renew(self._found)

    def _look(self) -> None:
        while not self._ended.wait(_LOOK):
            try:
                # Without an edit a new process would load the same, and end in the same way.
                self._found = self._find() if _stamps(self._project.settings) != self._files else None
            except (OSError, Unavailable, ProjectError):  # asked again the next time
                continue
            if self._found is not None:
                self._stop.set()
                return

    def _find(self) -> str | None:
        """What is newer, as a sentence; None: nothing."""
        for view in self._store.views():
            if self._is_newer(view):
                return f"{view.table}() was edited and built: ingest begins again with the new code"
        for contract in self._contracts:
            had = kept(contract, self._lake)
            if had is not None and had["fingerprint"] != described(contract)["fingerprint"]:
                return f"the contract of topic {contract.topic} was edited: ingest begins again with it"
        return None

    def _is_newer(self, view: StoredView) -> bool:
        return (
            isinstance(view, WindowedView)
            and is_of_other_code(view, self._loaded)
            and not is_of_other_code(view, codes_of(self._project))
            and self._store.position(view) is not None
        )


def _stamps(settings: Settings) -> list[tuple[str, int, int]]:
    """Name, size and time of the project's files."""
    return [(name, *stamp(path)) for name, path in project_files(settings).items()]
