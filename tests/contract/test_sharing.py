"""The contract of Member on every log: how members share the log partitions of a topic."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest
from tests.until import until

from headrace import log
from headrace.log import Log, Member

ROOT = Path(__file__).parents[2]
SESSION = 2.0  # seconds


@pytest.fixture
def wide_log(url: str) -> Iterator[Log]:
    opened = log.open(url)
    opened.create("wide", 5)
    yield opened
    opened.close()


Join = Callable[..., Member]


@pytest.fixture
def join(url: str, wide_log: Log, tmp_path: Path) -> Iterator[Join]:
    """Joins the topic. Each member opens a separate log, as a separate process would."""
    with ExitStack() as stack:

        def join_group(settle: Callable[[], None] = lambda: None, group: str = "workers") -> Member:
            member_log = log.open(url)
            stack.callback(member_log.close)
            return member_log.join("wide", group, tmp_path / "members", settle)

        yield join_group


def is_divided_evenly(members: Sequence[Member], partitions: int = 5) -> bool:
    """Whether every log partition belongs to exactly one member, and their shares differ by at most one."""
    shares = [member.partitions() for member in members]
    sizes = [len(share) for share in shares]
    return (
        sum(sizes) == partitions
        and frozenset().union(*shares) == frozenset(range(partitions))
        and max(sizes) - min(sizes) <= 1
    )


def test_members_divide_a_topic_and_release_their_share_at_once(join: Join) -> None:
    settled: list[int] = []
    first = join(lambda: settled.append(1))
    until(lambda: is_divided_evenly([first]))
    assert settled == []
    before = first.partitions()
    second = join()
    until(lambda: is_divided_evenly([first, second]))
    assert settled  # the first member finished its work before it released log partitions
    assert first.partitions() < before  # it kept the rest
    other = join(group="others")
    until(lambda: is_divided_evenly([other]))  # another group divides the topic independently
    assert is_divided_evenly([first, second])
    third = join()
    until(lambda: is_divided_evenly([first, second, third]))
    began = monotonic()
    second.close()
    until(lambda: is_divided_evenly([first, third]))
    assert monotonic() - began < 8  # without waiting for the session's ten seconds
    more = [join() for _ in range(4)]
    until(lambda: is_divided_evenly([first, third, *more]))  # one member has no log partition
    for member in [first, third, other, *more]:
        member.close()


class MemberProcess:
    """Runs tests.contract.member in a separate process."""

    def __init__(self, url: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.member", url, str(folder), str(SESSION)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def next_share(self) -> frozenset[int]:
        """Waits for the next change of its share; returns the share."""
        assert self.process.stdout is not None
        return frozenset(map(int, self.process.stdout.readline().split()))

    def end(self) -> None:
        self.process.communicate("\n", timeout=60)


def test_a_killed_member_that_restarts_gets_its_share_back_at_once(
    url: str, join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.log.sqlite.member.SESSION_SECONDS", 60.0)
    monkeypatch.setattr("headrace.log.kafka.member.SESSION_MS", 60_000)
    monkeypatch.setitem(globals(), "SESSION", 60.0)
    killed = MemberProcess(url, tmp_path / "members")
    while not (share := killed.next_share()):
        pass
    killed.process.kill()
    killed.process.communicate()
    began = monotonic()
    restarted = MemberProcess(url, tmp_path / "members")
    while restarted.next_share() != share:
        pass
    assert monotonic() - began < 30  # the killed member's session lasts a minute
    restarted.end()
    member = join()
    until(lambda: is_divided_evenly([member]))
    member.close()


def test_a_hanging_member_loses_its_share_and_notices_when_it_wakes_up(
    url: str, join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_sessions(monkeypatch, url)
    hanging = MemberProcess(url, tmp_path / "members")
    while not hanging.next_share():
        pass
    member = join()
    until(lambda: len(member.partitions()) in (2, 3))
    share = hanging.next_share()
    while len(share) not in (2, 3):
        share = hanging.next_share()
    os.kill(hanging.process.pid, signal.SIGSTOP)
    try:
        until(lambda: is_divided_evenly([member]), "nobody took over its share")
    finally:
        os.kill(hanging.process.pid, signal.SIGCONT)
    until(lambda: len(member.partitions()) in (2, 3), "the member that woke up got no share")
    assert hanging.next_share() != share  # it noticed
    hanging.end()
    until(lambda: is_divided_evenly([member]))
    member.close()


def shorten_sessions(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    from headrace.log.sqlite import member as sqlite_member

    monkeypatch.setattr(sqlite_member, "SESSION_SECONDS", SESSION)
    if url.startswith("kafka"):
        from headrace.log.kafka import member as kafka_member

        monkeypatch.setattr(kafka_member, "SESSION_MS", int(SESSION * 1_000))
