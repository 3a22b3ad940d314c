"""The kinds of fault. Each strikes once, amid work, and returns when that was seen; else it raises Missed."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable
from functools import partial

from tests.faults.poison import POISON
from tests.faults.run import WORKERS, Child, FaultRun, Missed

__all__ = ["KINDS", "Kind", "kinds_of"]

Kind = Callable[[FaultRun], None]

POINTS = (
    "ingest.before_next_batch",
    "lake.before_data_file",
    "lake.after_data_file",
    "lake.before_commit",
    "lake.after_commit",
    "sink.written",
    "sink.committed",
    "maintenance.expire",
)
KEEPING = (
    "maintenance.leased",
    "lake.before_data_file",
    "lake.before_commit",
    "lake.after_commit",
    "maintenance.expire",
    "maintenance.listed",
)


# --- workers -------------------------------------------------------------------------------------


def kill_worker_at(point: str, run: FaultRun) -> None:
    worker = run.busy()
    run.arm(worker, f"{point}:{run.chance.randint(1, 3)}")
    run.until(lambda: worker.ended is not None, f"worker {worker.pid} to reach {point}")
    assert worker.killed
    run.fill_roles()


def kill_worker_at_random(run: FaultRun) -> None:
    worker = run.busy()
    _random_moment(run, 0.15)
    run.kill(worker)
    run.fill_roles()


def stop_worker_at_random(run: FaultRun) -> None:
    is_taken_over = False
    while not is_taken_over:
        worker = run.busy()
        _random_moment(run, 0.1)
        worker.send(signal.SIGSTOP)
        is_taken_over = _await_takeover(run, worker)


def stop_worker_at(point: str, run: FaultRun) -> None:
    is_taken_over = False
    while not is_taken_over:
        worker = run.busy()
        run.arm(worker, f"{point}:1:STOP")
        is_taken_over = _await_takeover(run, worker)


def _await_takeover(run: FaultRun, worker: Child) -> bool:
    """Whether others did the work of a worker that hangs, until it was woken. One of its threads may hang
    within a transaction of a SQLite file: then all wait for it."""
    run.until(lambda: worker.stopped, f"worker {worker.pid} to stop")
    run.feed(80)
    left = run.ends.copy()
    since = len(run.news)

    def is_taken_over() -> bool:
        return not left - run.position

    def is_locked_out() -> bool:
        return run.has_news(since, "warning", text="locked") or run.has_news(since, "away", text="locked")

    run.until(
        lambda: is_taken_over() or is_locked_out(), "the others to do what was left to the one that hangs"
    )
    did = is_taken_over()
    since = len(run.news)
    worker.stopped = False
    worker.send(signal.SIGCONT)
    run.until(
        lambda: any(one["pid"] == worker.pid for one in run.news[since:]),
        f"worker {worker.pid} to be back at work",
    )
    return did


def add_worker(run: FaultRun) -> None:
    while len(run.in_role("work")) >= run.setup.partitions:  # one more would have no share
        run.end(run.in_role("work")[0])
    run.wanted = len(run.in_role("work")) + 1
    run.fill_roles()
    newest = run.in_role("work")[-1]
    since = len(run.news)
    run.until(lambda: run.has_news(since, "commit", of=newest), f"worker {newest.pid} to have its share")
    run.wanted = WORKERS


def remove_worker(run: FaultRun) -> None:
    run.end(run.busy())
    if len(run.in_role("work")) < WORKERS - 1:
        run.fill_roles()
    run.await_commit("after a worker left")


# --- log -----------------------------------------------------------------------------------------


def kill_producer(run: FaultRun) -> None:
    run.fill_roles()
    since = len(run.news)
    producers = run.in_role("produce")
    run.until(lambda: any(run.has_news(since, "ack", of=one) for one in producers), "an append of a producer")
    for one in producers:
        run.feed_one(one, 60)
    _random_moment(run, 0.06)
    run.kill(run.chance.choice(producers))
    run.fill_roles()


def append_poison(kind: str, run: FaultRun) -> None:
    before = run.poison[kind]
    run.fill_roles()
    run.feed(20, kind)
    run.until(lambda: run.poison[kind] > before, f"{kind} to be appended")


def lock_topic(run: FaultRun) -> None:
    path = run.setup.settings.place("log", f"{run.setup.topic}.db")
    _lock_file(run, str(path), "locked for")


def restart_broker(hard: bool, run: FaultRun) -> None:
    broker = run.broker
    assert broker is not None
    run.busy()
    broker.stop(hard=hard)
    broker.start()
    since = len(run.news)
    run.until(
        lambda: run.has_news(since, "ack") and run.has_news(since, "commit"),
        "appends and commits after the restart",
    )


# --- lake ----------------------------------------------------------------------------------------


def lock_catalog(run: FaultRun) -> None:
    _lock_file(run, str(run.setup.settings.place("lake", "catalog.db")), "catalog is locked")


def _lock_file(run: FaultRun, path: str, text: str) -> None:
    """Somebody holds the file until work was turned away from it."""
    run.busy()
    since = len(run.news)
    holder = run.fork("hold", path=path)
    run.until(
        lambda: run.has_news(since, "warning", text=text) or run.has_news(since, "away", text=text),
        f"somebody to be turned away from {path}",
    )
    run.end(holder)
    run.fill_roles()
    run.await_commit("after the lock")


def fill_disk(run: FaultRun) -> None:
    """The disk is full until a worker could not write; then there is room again."""
    run.busy()
    since = len(run.news)

    def is_turned_away() -> bool:
        return any(
            one["what"] in ("warning", "away") and any(text in one["text"] for text in _FULL)
            for one in run.news[since:]
        )

    if run.own_disk:
        filler = run.fork("fill")
        run.until(is_turned_away, "a worker to find the disk full")
        run.end(filler)
    else:
        limited = run.in_role("work")
        for worker in limited:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        run.until(is_turned_away, "a worker to find its files limited")
        for worker in limited:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    run.fill_roles()
    run.await_commit("after there was room again")


_FULL = ("No space left", "File too large", "disk is full", "disk I/O error")


def commit_beside(run: FaultRun) -> None:
    run.busy()
    since = len(run.news)
    meddler = run.fork("meddle")
    run.until(lambda: run.has_news(since, "meddled"), "another writer's commit")
    since = len(run.news)
    run.until(
        lambda: run.has_news(since, "beaten", other_than=meddler),
        "a worker's commit to be beaten by another writer's",
    )
    run.end(meddler)


def maintain_beside(run: FaultRun) -> None:
    run.busy()
    since = len(run.news)
    keeper = run.fork("keep")

    def did(what: str) -> bool:
        return any(one["what"] == "kept" and one[what] for one in run.news[since:])

    run.until(lambda: did("compacted") and did("expired"), "maintenance that compacts and expires")
    run.end(keeper)


def kill_maintenance_at(point: str, run: FaultRun) -> None:
    run.busy()
    keeper = run.fork("keep", fault=point)
    run.until(lambda: keeper.ended is not None, f"maintenance to reach {point}")
    assert keeper.killed


def cut_connection(when: str, run: FaultRun) -> None:
    """The connection is cut at a commit: before it reached the catalog, or after, before its answer."""
    door = run.door
    assert door is not None
    run.busy()
    before = len(door.actions)
    door.commits.append(f"cut {when}")
    run.until(lambda: len(door.actions) > before, f"a commit to be cut off {when} it went through")
    run.await_commit("after the connection was cut")


# --- quarantine ----------------------------------------------------------------------------------


def replay_refused(run: FaultRun) -> None:
    since = len(run.news)
    replay = run.fork("replay")
    run.until(lambda: replay.ended is not None, "a replay")
    if not run.has_news(since, "replayed"):
        raise Missed("nothing was replayed")


def kill_replay(run: FaultRun) -> None:
    since = len(run.news)
    replay = run.fork("replay")
    run.until(
        lambda: run.has_news(since, "replaying", of=replay) or replay.ended is not None, "a replay's begin"
    )
    _random_moment(run, 0.1)
    run.kill(replay)
    if not replay.killed:
        raise Missed("the replay was quicker")


def _random_moment(run: FaultRun, most: float) -> None:
    time.sleep(run.chance.uniform(0, most))


KINDS: dict[str, Kind] = {
    "worker killed at random": kill_worker_at_random,
    **{f"worker killed at {point}": partial(kill_worker_at, point) for point in POINTS},
    "worker hangs at random, wakes": stop_worker_at_random,
    **{
        f"worker hangs at {p}, wakes": partial(stop_worker_at, p)
        for p in ("lake.before_commit", "lake.after_commit")
    },
    "worker joins": add_worker,
    "worker leaves": remove_worker,
    "producer killed": kill_producer,
    "topic's file locked": lock_topic,
    "broker restarted": partial(restart_broker, False),
    "broker killed": partial(restart_broker, True),
    "catalog's file locked": lock_catalog,
    "disk full": fill_disk,
    "another writer's commits": commit_beside,
    "maintenance beside": maintain_beside,
    **{f"maintenance killed at {point}": partial(kill_maintenance_at, point) for point in KEEPING},
    "commit cut off before": partial(cut_connection, "before"),
    "commit cut off after": partial(cut_connection, "after"),
    "replay": replay_refused,
    "replay killed": kill_replay,
    **{f"poison: {kind}": partial(append_poison, kind) for kind in (*POISON, "tombstone")},
}


def kinds_of(run: FaultRun) -> list[str]:
    """The kinds that can strike in this run."""
    cannot: set[str] = set()
    if run.broker is None:
        cannot |= {"broker restarted", "broker killed", "poison: tombstone"}
    else:
        cannot |= {"topic's file locked"}
    if run.door is None:
        cannot |= {"commit cut off before", "commit cut off after"}
    else:
        cannot |= {"catalog's file locked"}
    return [kind for kind in KINDS if kind not in cannot]
