"""A run of the suite: its workers and producers, and the means to inject faults into them."""

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

__all__ = ["UNSHARE", "Child", "FaultRun", "NotObserved", "may_mount", "start_run"]

ROOT = Path(__file__).parents[2]
DEADLINE = 300.0  # seconds; long, for a machine on which a commit takes seconds
WORKERS = 3
PRODUCERS = frozenset({"producer-1", "producer-2"})
MOST_BEHIND = 400  # events
DISK = "512m"


class NotObserved(AssertionError):
    """An effect that a fault must have was not observed in time."""


@dataclass
class Child:
    """A child of the fork server. `ended`: its wait status; `doomed`: a fault is expected to kill it."""

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
    """The processes of a run, and their reports.

    Attributes:
        setup: its folders and addresses.
        rng: makes every random choice, from the seed.
        fork_server: the process that forks the children.
        journal: the read end of the pipe to which the children report.
        own_disk: whether the project lies on a small disk that only this run uses. Where it does not, a limit
            on the size of the workers' files acts as a full disk.
        broker: the broker of the log; None on SQLite.
        catalog_proxy: the proxy of the REST catalog; None on SQLite.
        reports: the lines of the journal so far.
        position: log partition → the next offset after the last reported commit.
        ends: log partition → one past the last acknowledged offset.
        injected, poison: kind → how often.
        fixed: whether the contract admits events of any price.
        edited: whether the project's code is the edited one.
    """

    setup: Setup
    rng: random.Random
    fork_server: subprocess.Popen[str]
    journal: int
    own_disk: bool
    broker: Broker | None = None
    catalog_proxy: CatalogProxy | None = None
    children: dict[int, Child] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    position: Counter[int] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    poison: Counter[str] = field(default_factory=Counter)
    fixed: bool = False
    edited: bool = False
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

    def fork(self, role: str, fault: str | None = None, **arguments: Any) -> Child:
        """Forks a child that plays the role (see children.ROLES) and meets the fault."""
        child = Child(
            self._order("fork", role=role, fault=fault, arguments=arguments),
            role,
            arguments.get("name", role),
            doomed=fault is not None,
        )
        self.children[child.pid] = child
        return child

    def in_role(self, role: str) -> list[Child]:
        """The children in this role that run and are not about to be killed."""
        return [c for c in self.children.values() if c.role == role and c.ended is None and not c.doomed]

    def fill_roles(self) -> None:
        """Starts workers and producers in place of those that ended."""
        while len(self.in_role("work")) < self.wanted:
            self.fork("work", fixed=self.fixed)
        for name in PRODUCERS - {child.name for child in self.in_role("produce")}:
            self._first += 1_000_000
            self.fork("produce", name=name, first=self._first)

    def write_code(self) -> None:
        """Writes the project's code, as it is before or after the edit."""
        self._await_end(self.fork("edit", edited=self.edited))

    def edit_code(self) -> None:
        """Edits the project's code, or takes the edit back."""
        self.edited = not self.edited
        self.write_code()

    def build(self) -> None:
        """Fills the online state for the present code."""
        self._await_end(self.fork("build", fixed=self.fixed))

    def _await_end(self, child: Child) -> None:
        self.until(lambda: child.ended is not None, f"{child.role} {child.pid} to end")

    def arm(self, worker: Child, fault: str) -> None:
        """Makes a running worker meet a fault (see headrace.kernel.faults)."""
        (self.setup.notes / f"fault-{worker.pid}").write_text(fault)
        worker.doomed = not fault.endswith(":STOP")
        since = len(self.reports)
        self._signal(worker, signal.SIGUSR1, lambda: self.has_report(since, "armed", of=worker))

    def kill(self, child: Child) -> None:
        """Kills a child with SIGKILL and waits for its end."""
        child.doomed = True
        child.send(signal.SIGKILL)
        self.until(lambda: child.ended is not None, f"the end of {child.role} {child.pid}")

    def end(self, child: Child) -> None:
        """Ends a child by SIGTERM, as an operator would; its exit status must be 0."""
        self._signal(child, signal.SIGTERM, lambda: child.ended is not None)
        assert child.ended == 0, self.stderr_text()

    def _signal(self, child: Child, number: int, done: Callable[[], bool]) -> None:
        """Sends a signal until it takes effect: Python may miss one outside the main thread."""
        sent = 0.0

        def is_done() -> bool:
            nonlocal sent
            if done():
                return True
            if time.monotonic() > sent + 2:
                sent = time.monotonic()
                child.send(number)
            return False

        self.until(is_done, f"{child.role} {child.pid} to obey {signal.Signals(number).name}")

    def stderr_text(self) -> str:
        """The last lines that the children wrote to stderr."""
        return (self.setup.notes / "stderr").read_text(errors="replace")[-6000:]

    # --- events --------------------------------------------------------------------------------

    def feed(self, count: int, poison: str | None = None) -> None:
        """Makes a random producer append so many events, and one of the kind of poison."""
        producers = self.in_role("produce")
        if producers:
            self.feed_producer(self.rng.choice(producers), count, poison)

    def feed_producer(self, producer: Child, count: int, poison: str | None = None) -> None:
        """Makes this producer append so many events, and one of the kind of poison."""
        self._order("feed", pid=producer.pid, line=json.dumps([count, poison]) + "\n")

    def order_end(self, producer: Child) -> None:
        """Makes a producer end once it has appended everything that was ordered."""
        self._order("feed", pid=producer.pid, line="end\n")

    def read_journal(self) -> None:
        """Reads the reports and collects the ended children since the last call."""
        with suppress(BlockingIOError), (self.setup.notes / "journal.log").open("ab") as copy:
            while content := os.read(self.journal, 1 << 20):
                copy.write(content)
                *lines, self._rest = (self._rest + content).split(b"\n")
                for line in lines:
                    self._record(json.loads(line))
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

    def _record(self, report: dict[str, Any]) -> None:
        self.reports.append(report)
        if report["what"] == "commit":
            for partition, offset in report["offsets"].items():
                self.position[int(partition)] = max(self.position[int(partition)], offset)
        elif report["what"] == "ack":
            self.poison.update(report["poison"])
            for partition, offset in report["at"]:
                self.ends[partition] = max(self.ends[partition], offset + 1)

    def until(self, done: Callable[[], Any], what: str, *, feed: bool = True) -> None:
        """Reads the journal until `done` holds; meanwhile feeds the producers.

        Raises:
            NotObserved: `done` did not hold within the deadline.
        """
        deadline = time.monotonic() + DEADLINE
        while True:
            self.read_journal()
            if done():
                return
            if time.monotonic() > deadline:
                raise NotObserved(f"waited {DEADLINE:g} s for {what}; {self._report()}")
            if (
                feed
                and time.monotonic() > self._fed + 0.12
                and (self.ends - self.position).total() < MOST_BEHIND
            ):
                self._fed = time.monotonic()
                self.feed(30)
            time.sleep(0.005)

    def _report(self) -> str:
        """The latest reports, and the stack of each child."""
        alive = [child for child in self.children.values() if child.ended is None]
        for child in alive:
            child.send(signal.SIGUSR2)
        time.sleep(2)
        latest = "\n".join(str(report) for report in self.reports[-200:] if report["what"] != "ack")
        stderr = (self.setup.notes / "stderr").read_text(errors="replace")[-60_000:]
        return f"latest reports:\n{latest}\nalive: {alive}\n{self._groups()}\n{stderr}"

    def _groups(self) -> str:
        """The members of each consumer group and their log partitions, as the broker knows them."""
        if self.broker is None:
            return ""
        admin = AdminClient({"bootstrap.servers": self.broker.url.removeprefix("kafka://")})
        names = [group.group_id for group in admin.list_consumer_groups().result(30).valid]
        described = admin.describe_consumer_groups(names) if names else {}
        groups = [group.result(30) for group in described.values()]
        return "\n".join(
            f"group {group.group_id} {group.state}: {member.member_id} {member.group_instance_id} has "
            f"{[partition.partition for partition in member.assignment.topic_partitions]}"
            for group in groups
            for member in group.members
        )

    def has_report(
        self, since: int, what: str, *, of: Child | None = None, other_than: Child | None = None, text: str = ""
    ) -> bool:
        """Whether such a report came at or after the line `since` of the journal."""
        return any(
            report["what"] == what
            and text in report.get("text", "")
            and (of is None or report["pid"] == of.pid)
            and (other_than is None or report["pid"] != other_than.pid)
            for report in self.reports[since:]
        )

    def await_commit(self, what: str) -> None:
        """Waits for the next commit of any worker."""
        since = len(self.reports)
        self.until(lambda: self.has_report(since, "commit"), f"a commit {what}")

    def await_busy_worker(self) -> Child:
        """Waits for a commit; returns a worker that has just committed."""
        self.fill_roles()
        since = len(self.reports)
        workers = self.in_role("work")

        def committers() -> list[Child]:
            return [w for w in workers if w.ended is None and self.has_report(since, "commit", of=w)]

        self.until(committers, "a commit of a worker")
        return self.rng.choice(committers())


@contextmanager
def start_run(
    setup: Setup, seed: int, broker: Broker | None = None, catalog_proxy: CatalogProxy | None = None
) -> Iterator[FaultRun]:
    """Starts a run. Its fork server has a small disk that nothing else uses, where the kernel allows it."""
    setup.disk.mkdir()
    setup.notes.mkdir()
    os.mkfifo(setup.notes / "journal")
    journal = os.open(setup.notes / "journal", os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(journal, fcntl.F_SETPIPE_SZ, 1 << 20)
    arguments = {
        name: str(value) if isinstance(value, Path) else value for name, value in asdict(setup).items()
    }
    command = [sys.executable, "-m", "tests.faults.fork_server", json.dumps(arguments)]
    mount = 'mount -t tmpfs -o size="$1",mode=0700 headrace "$2" || exit 77; shift 2; exec "$@"'
    own_disk = setup.catalog == "sqlite" and may_mount()
    if own_disk:
        command = [*UNSHARE, "sh", "-c", mount, "sh", DISK, str(setup.disk), *command]
    with (setup.notes / "stderr").open("ab") as stderr:
        fork_server = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    run = FaultRun(setup, random.Random(seed), fork_server, journal, own_disk, broker, catalog_proxy)
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
        fork_server.wait(180)
        fork_server.stdout.close()
        os.close(journal)


UNSHARE = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")


def may_mount() -> bool:
    """Whether this user may mount a disk that only the fork server sees."""
    if shutil.which("unshare") is None:
        return False
    result = subprocess.run(
        [*UNSHARE, "mount", "-t", "tmpfs", "headrace", "/mnt"], capture_output=True, check=False
    )
    return result.returncode == 0
