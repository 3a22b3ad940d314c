"""A run of the suite: workers that ingest, producers that append, and the means to inject faults into them."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient
from services.kafka import Broker
from tests.faults.setup import Setup
from tests.lake.catalog_proxy import CatalogProxy

__all__ = ["Child", "FaultRun", "Missed", "start_run"]

ROOT = Path(__file__).parents[2]
DEADLINE = 90.0  # seconds; a busy machine is given time
WORKERS = 3
PRODUCERS = frozenset({"one", "another"})
MOST_BEHIND = 400  # events
DISK = "512m"


class Missed(AssertionError):
    """What was waited for did not come."""


@dataclass
class Child:
    """A child of the fork server. `ended`: its wait status; `doomed`: whoever strikes it expects its end."""

    pid: int
    role: str
    name: str
    ended: int | None = None
    stopped: bool = False
    doomed: bool = False

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def killed(self) -> bool:
        return (
            self.ended is not None and os.WIFSIGNALED(self.ended) and os.WTERMSIG(self.ended) == signal.SIGKILL
        )


@dataclass
class FaultRun:
    """Everything that runs, and what it reported.

    Attributes:
        setup: where it runs.
        chance: decides what the seed decides.
        fork_server, journal: the process that forks, and the end of the pipe that all tell their news to.
        own_disk: whether the disk is small and its own. Where not, a full one is a limit on the size of
            the workers' files.
        broker: the log's broker; None on SQLite.
        door: stands before a REST catalog; None on SQLite.
        news: the lines of the journal so far.
        position: log partition → how far the table was told to have read.
        ends: log partition → one past the last acknowledged offset.
        struck, poison: kind → how often.
    """

    setup: Setup
    chance: random.Random
    fork_server: subprocess.Popen[str]
    journal: int
    own_disk: bool
    broker: Broker | None = None
    door: CatalogProxy | None = None
    children: dict[int, Child] = field(default_factory=dict)
    news: list[dict[str, Any]] = field(default_factory=list)
    position: Counter[int] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    poison: Counter[str] = field(default_factory=Counter)
    fixed: bool = False
    wanted: int = WORKERS
    _rest: bytes = b""
    _first: int = 0
    _fed: float = 0.0

    # --- children ------------------------------------------------------------------------------

    def _order(self, do: str, **order: Any) -> Any:
        assert self.fork_server.stdin is not None
        assert self.fork_server.stdout is not None
        try:
            self.fork_server.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self.fork_server.stdin.flush()
            return json.loads(self.fork_server.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            raise AssertionError(f"the fork server died:\n{self.stderr_text()}") from error

    def fork(self, role: str, fault: str | None = None, **given: Any) -> Child:
        """A child that plays the role (see children.ROLES), in which `fault` strikes."""
        child = Child(
            self._order("fork", role=role, fault=fault, given=given),
            role,
            given.get("name", role),
            doomed=fault is not None,
        )
        self.children[child.pid] = child
        return child

    def in_role(self, role: str) -> list[Child]:
        """The children in this role that go on."""
        return [c for c in self.children.values() if c.role == role and c.ended is None and not c.doomed]

    def fill_roles(self) -> None:
        """Workers and producers in the place of those that are gone."""
        while len(self.in_role("work")) < self.wanted:
            self.fork("work", fixed=self.fixed)
        for name in PRODUCERS - {child.name for child in self.in_role("produce")}:
            self._first += 1_000_000
            self.fork("produce", name=name, first=self._first)

    def arm(self, worker: Child, fault: str) -> None:
        """Has a worker that runs meet a fault (see headrace.kernel.faults)."""
        (self.setup.notes / f"fault-{worker.pid}").write_text(fault)
        worker.doomed = not fault.endswith(":STOP")
        since = len(self.news)
        self._signal(worker, signal.SIGUSR1, lambda: self.has_news(since, "armed", of=worker))

    def kill(self, child: Child) -> None:
        """kill -9."""
        child.doomed = True
        child.send(signal.SIGKILL)
        self.until(lambda: child.ended is not None, f"the end of {child.role} {child.pid}")

    def end(self, child: Child) -> None:
        """Asks a child to end, as an operator would, and sees that it did so well."""
        self._signal(child, signal.SIGTERM, lambda: child.ended is not None)
        assert child.ended == 0, self.stderr_text()

    def _signal(self, child: Child, number: int, done: Callable[[], bool]) -> None:
        """Sends a signal until it was heard: Python misses one that another thread than its first is given."""
        sent = 0.0

        def has_news() -> bool:
            nonlocal sent
            if done():
                return True
            if time.monotonic() > sent + 2:
                sent = time.monotonic()
                child.send(number)
            return False

        self.until(has_news, f"{child.role} {child.pid} to hear {signal.Signals(number).name}")

    def stderr_text(self) -> str:
        """The last words of the children."""
        return (self.setup.notes / "said").read_text(errors="replace")[-6000:]

    # --- events --------------------------------------------------------------------------------

    def feed(self, count: int, poison: str | None = None) -> None:
        """Has a producer append so many events, a poisonous one among them."""
        producers = self.in_role("produce")
        if producers:
            self.feed_one(self.chance.choice(producers), count, poison)

    def feed_one(self, producer: Child, count: int, poison: str | None = None) -> None:
        """Has this producer do so."""
        self._order("feed", pid=producer.pid, line=json.dumps([count, poison]) + "\n")

    def order_end(self, producer: Child) -> None:
        """Has a producer end once it has appended what it was told to."""
        self._order("feed", pid=producer.pid, line="end\n")

    def look(self) -> None:
        """Takes in what happened since the last look."""
        with suppress(BlockingIOError), (self.setup.notes / "told").open("ab") as kept:
            while found := os.read(self.journal, 1 << 20):
                kept.write(found)
                *lines, self._rest = (self._rest + found).split(b"\n")
                for line in lines:
                    self._note_line(json.loads(line))
        ended = []
        for pid, status in self._order("reap"):
            child = self.children[pid]
            if os.WIFSTOPPED(status):
                child.stopped = True
            else:
                child.ended = status
                ended.append(child)
        for child in ended:
            if child.ended and not (child.doomed and child.killed):
                raise AssertionError(
                    f"{child.role} {child.pid} ended with status {child.ended}:\n{self.stderr_text()}"
                )

    def _note_line(self, one: dict[str, Any]) -> None:
        self.news.append(one)
        if one["what"] == "commit":
            for partition, offset in one["offsets"].items():
                self.position[int(partition)] = max(self.position[int(partition)], offset)
        elif one["what"] == "ack":
            self.poison.update(one["poison"])
            for partition, offset in one["at"]:
                self.ends[partition] = max(self.ends[partition], offset + 1)

    def until(self, done: Callable[[], Any], what: str, *, feed: bool = True) -> None:
        """Looks until it is so, while work goes on coming in.

        Raises:
            Missed: it was not so within the deadline.
        """
        deadline = time.monotonic() + DEADLINE
        while True:
            self.look()
            if done():
                return
            if time.monotonic() > deadline:
                raise Missed(f"waited {DEADLINE:g} s for {what}; {self._report()}")
            if (
                feed
                and time.monotonic() > self._fed + 0.12
                and (self.ends - self.position).total() < MOST_BEHIND
            ):
                self._fed = time.monotonic()
                self.feed(30)
            time.sleep(0.005)

    def _report(self) -> str:
        """What was told lately, and where each child is."""
        alive = [child for child in self.children.values() if child.ended is None]
        for child in alive:
            child.send(signal.SIGUSR2)
        time.sleep(2)
        lately = "\n".join(str(one) for one in self.news[-200:] if one["what"] != "ack")
        said = (self.setup.notes / "said").read_text(errors="replace")[-60_000:]
        return f"told lately:\n{lately}\nalive: {alive}\n{self._groups()}\n{said}"

    def _groups(self) -> str:
        """Who has which log partition, as the broker believes."""
        if self.broker is None:
            return ""
        admin = AdminClient({"bootstrap.servers": self.broker.url.removeprefix("kafka://")})
        names = [one.group_id for one in admin.list_consumer_groups().result(30).valid]
        groups = [told.result(30) for told in admin.describe_consumer_groups(names).values()] if names else []
        return "\n".join(
            f"group {group.group_id} {group.state}: {member.member_id} {member.group_instance_id} has "
            f"{[one.partition for one in member.assignment.topic_partitions]}"
            for group in groups
            for member in group.members
        )

    def has_news(
        self, since: int, what: str, *, of: Child | None = None, other_than: Child | None = None, text: str = ""
    ) -> bool:
        """Whether this was told since the journal's line `since`."""
        return any(
            one["what"] == what
            and text in one.get("text", "")
            and (of is None or one["pid"] == of.pid)
            and (other_than is None or one["pid"] != other_than.pid)
            for one in self.news[since:]
        )

    def await_commit(self, what: str) -> None:
        """Waits for the next commit of any worker."""
        since = len(self.news)
        self.until(lambda: self.has_news(since, "commit"), f"a commit {what}")

    def busy(self) -> Child:
        """A worker that has just committed."""
        self.fill_roles()
        since = len(self.news)
        workers = self.in_role("work")

        def found() -> list[Child]:
            return [w for w in workers if w.ended is None and self.has_news(since, "commit", of=w)]

        self.until(found, "a commit of a worker")
        return self.chance.choice(found())


@contextmanager
def start_run(
    setup: Setup, seed: int, broker: Broker | None = None, door: CatalogProxy | None = None
) -> Iterator[FaultRun]:
    """A run whose fork server has its own small disk, if the kernel allows it."""
    setup.disk.mkdir()
    setup.notes.mkdir()
    os.mkfifo(setup.notes / "journal")
    journal = os.open(setup.notes / "journal", os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(journal, fcntl.F_SETPIPE_SZ, 1 << 20)
    given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(setup).items()}
    plain = [sys.executable, "-m", "tests.faults.fork_server", json.dumps(given)]
    mount = 'mount -t tmpfs -o size="$1",mode=0700 headrace "$2" || exit 77; shift 2; exec "$@"'
    own = setup.catalog == "sqlite" and _may_mount()
    command = [*_UNSHARE, "sh", "-c", mount, "sh", DISK, str(setup.disk), *plain] if own else plain
    with (setup.notes / "said").open("ab") as said:
        fork_server = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )
    run = FaultRun(setup, random.Random(seed), fork_server, journal, own, broker, door)
    try:
        yield run
    finally:
        for child in run.children.values():
            if child.ended is None:
                with suppress(ProcessLookupError):
                    child.send(signal.SIGKILL)
        assert fork_server.stdin is not None
        assert fork_server.stdout is not None
        fork_server.stdin.close()
        fork_server.wait(60)
        fork_server.stdout.close()
        os.close(journal)


_UNSHARE = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")


def _may_mount() -> bool:
    """Whether this kernel lets this user mount a disk that only the fork server sees."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        [*_UNSHARE, "mount", "-t", "tmpfs", "headrace", "/mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0
