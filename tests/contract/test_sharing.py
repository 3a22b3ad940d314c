"""Several that share a topic's log partitions, on every log: what each may count on."""

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
def opened(url: str) -> Iterator[Log]:
    one = log.open(url)
    one.create("wide", 5)
    yield one
    one.close()


Join = Callable[..., Member]


@pytest.fixture
def join(url: str, opened: Log, tmp_path: Path) -> Iterator[Join]:
    """Joins the topic, each member by a log of its own, as a process does."""
    with ExitStack() as stack:

        def joined(settle: Callable[[], None] = lambda: None, group: str = "workers") -> Member:
            one = log.open(url)
            stack.callback(one.close)
            return one.join("wide", group, tmp_path / "members", settle)

        yield joined


def divided(members: Sequence[Member], partitions: int = 5) -> bool:
    """Whether every log partition is with exactly one of them, as evenly as can be."""
    found = [one.partitions() for one in members]
    sizes = [len(share) for share in found]
    return (
        sum(sizes) == partitions
        and frozenset().union(*found) == frozenset(range(partitions))
        and max(sizes) - min(sizes) <= 1
    )


def test_members_divide_a_topic_and_give_up_their_share_at_once(join: Join) -> None:
    settled: list[int] = []
    first = join(lambda: settled.append(1))
    until(lambda: divided([first]))
    assert settled == []
    before = first.partitions()
    second = join()
    until(lambda: divided([first, second]))
    assert settled  # what was made of the share was finished before some of it went
    assert first.partitions() < before  # it kept what need not go
    other = join(group="others")
    until(lambda: divided([other]))  # another group knows nothing of these
    assert divided([first, second])
    third = join()
    until(lambda: divided([first, second, third]))
    began = monotonic()
    second.close()
    until(lambda: divided([first, third]))
    assert monotonic() - began < 8  # not the session's ten seconds
    more = [join() for _ in range(4)]
    until(lambda: divided([first, third, *more]))  # one of them has nothing to do
    for one in [first, third, other, *more]:
        one.close()


class Worker:
    """tests.contract.member in a process of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.member", url, str(folder), str(SESSION)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def next_share(self) -> frozenset[int]:
        """What it says it has, the next time that changes."""
        assert self.process.stdout is not None
        return frozenset(map(int, self.process.stdout.readline().split()))

    def end(self) -> None:
        self.process.communicate("\n", timeout=60)


def test_the_share_of_one_that_was_killed_is_its_own_again_at_once_or_goes_to_the_others(
    url: str, join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.log.sqlite.member.SESSION_SECONDS", 60.0)
    monkeypatch.setattr("headrace.log.kafka.member.SESSION_MS", 60_000)
    monkeypatch.setitem(globals(), "SESSION", 60.0)
    killed = Worker(url, tmp_path / "members")
    while not (share := killed.next_share()):
        pass
    killed.process.kill()
    killed.process.communicate()
    began = monotonic()
    again = Worker(url, tmp_path / "members")
    while again.next_share() != share:
        pass
    assert monotonic() - began < 30  # its session goes on for a minute
    again.end()
    one = join()
    until(lambda: divided([one]))
    one.close()


def test_one_that_hangs_loses_its_share_and_notices_when_it_wakes_up(
    url: str, join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_sessions_by(monkeypatch, url)
    hung = Worker(url, tmp_path / "members")
    while not hung.next_share():
        pass
    one = join()
    until(lambda: len(one.partitions()) in (2, 3))
    kept = hung.next_share()
    while len(kept) not in (2, 3):
        kept = hung.next_share()
    os.kill(hung.process.pid, signal.SIGSTOP)
    try:
        until(lambda: divided([one]), "its share went to nobody")
    finally:
        os.kill(hung.process.pid, signal.SIGCONT)
    until(lambda: len(one.partitions()) in (2, 3), "who woke up got nothing")
    assert hung.next_share() != kept  # it noticed
    hung.end()
    until(lambda: divided([one]))
    one.close()


def short_sessions_by(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    from headrace.log.sqlite import member as sqlite_member

    monkeypatch.setattr(sqlite_member, "SESSION_SECONDS", SESSION)
    if url.startswith("kafka"):
        from headrace.log.kafka import member as kafka_member

        monkeypatch.setattr(kafka_member, "SESSION_MS", int(SESSION * 1_000))
