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
SESSION, LONG = 2.0, 900.0  # seconds; the long one is longer than any test waits


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


def test_members_divide_a_topic_and_release_their_share_at_once(
    url: str, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_session(monkeypatch, url, LONG)  # a share that is not released is not free until this is over
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
    until(lambda: is_divided_evenly([first, second]))
    third = join()
    until(lambda: is_divided_evenly([first, second, third]))
    second.close()
    until(lambda: is_divided_evenly([first, third]))
    more = [join() for _ in range(4)]
    until(lambda: is_divided_evenly([first, third, *more]))  # one member has no log partition
    for member in [first, third, other, *more]:
        member.close()


class MemberProcess:
    """Runs tests.contract.member in a separate process."""

    def __init__(self, url: str, folder: Path, session: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.member", url, str(folder), str(session)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def next_share(self) -> frozenset[int]:
        """Waits for the next change of its share; returns the share."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the member has ended"
        return frozenset(map(int, line.split()))

    def end(self) -> None:
        self.process.communicate("\n", timeout=300)


def test_a_killed_member_that_restarts_gets_its_share_back_at_once(
    url: str, join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_session(monkeypatch, url, LONG)
    killed = MemberProcess(url, tmp_path / "members", LONG)
    while not (share := killed.next_share()):
        pass
    killed.process.kill()
    killed.process.communicate()
    began = monotonic()
    restarted = MemberProcess(url, tmp_path / "members", LONG)
    while restarted.next_share() != share:
        pass
    assert monotonic() - began < LONG / 2  # the killed member's session has not ended
    restarted.end()
    member = join()
    until(lambda: is_divided_evenly([member]))
    member.close()


def test_a_hanging_member_loses_its_share_and_notices_when_it_wakes_up(
    url: str, join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_session(monkeypatch, url, SESSION)
    hanging = MemberProcess(url, tmp_path / "members", SESSION)
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


def set_session(monkeypatch: pytest.MonkeyPatch, url: str, seconds: float) -> None:
    """Members of this process that join now are gone so many seconds after their last sign of life."""
    from headrace.log.sqlite import member as sqlite_member

    monkeypatch.setattr(sqlite_member, "SESSION_SECONDS", seconds)
    if url.startswith("kafka"):
        from headrace.log.kafka import member as kafka_member

        monkeypatch.setattr(kafka_member, "LEAVE_SECONDS", 60.0)
        monkeypatch.setattr(kafka_member, "SESSION_MS", int(seconds * 1_000))
