"""The kinds of fault. Each injects one fault amid work and returns once its effect was observed.

Raises NotObserved if that does not happen in time.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable
from functools import partial

from tests.faults.poison import POISON, TOO_LARGE
from tests.faults.run import WORKERS, Child, FaultRun, NotObserved

__all__ = ["KINDS", "Kind", "possible_kinds"]

Kind = Callable[[FaultRun], None]

WORKER_POINTS = (
    "ingest.before_next_batch",
    "ingest.led",
    "lake.before_data_file",
    "lake.after_data_file",
    "lake.before_commit",
    "lake.after_commit",
    "sink.written",
    "sink.committed",
    "online.apply.written",
    "online.apply.committed",
    "maintenance.expire",
)
MAINTENANCE_POINTS = (
    "maintenance.leased",
    "lake.before_data_file",
    "lake.before_commit",
    "lake.after_commit",
    "maintenance.expire",
    "maintenance.listed",
)


# --- workers -------------------------------------------------------------------------------------


def kill_worker_at(point: str, run: FaultRun) -> None:
    worker = run.await_busy_worker()
    run.arm(worker, f"{point}:{run.rng.randint(1, 3)}")
    run.until(lambda: worker.ended is not None, f"worker {worker.pid} to reach {point}")
    assert worker.killed
    run.fill_roles()


def kill_worker_at_random(run: FaultRun) -> None:
    worker = run.await_busy_worker()
    _random_moment(run, 0.15)
    run.kill(worker)
    run.fill_roles()


def stop_worker_at_random(run: FaultRun) -> None:
    is_taken_over = False
    while not is_taken_over:
        worker = run.await_busy_worker()
        _random_moment(run, 0.1)
        worker.send(signal.SIGSTOP)
        is_taken_over = _await_takeover(run, worker)


def stop_worker_at(point: str, run: FaultRun) -> None:
    is_taken_over = False
    while not is_taken_over:
        worker = run.await_busy_worker()
        run.arm(worker, f"{point}:1:STOP")
        is_taken_over = _await_takeover(run, worker)


def _await_takeover(run: FaultRun, worker: Child) -> bool:
    """Waits until others do the work of a worker that hangs, then wakes it. Returns whether they did the work:
    where the worker hangs within a transaction on a SQLite file, all wait for it."""
    run.until(lambda: worker.stopped, f"worker {worker.pid} to stop")
    run.feed(80)
    ends = run.ends.copy()
    since = len(run.reports)

    def is_taken_over() -> bool:
        return not ends - run.position

    def is_locked_out() -> bool:
        return run.has_report(since, "warning", text="locked") or run.has_report(
            since, "unavailable", text="locked"
        )

    run.until(lambda: is_taken_over() or is_locked_out(), "the others to do the work of the worker that hangs")
    is_work_done = is_taken_over()
    since = len(run.reports)
    worker.stopped = False
    worker.send(signal.SIGCONT)
    run.until(
        lambda: any(report["pid"] == worker.pid for report in run.reports[since:]),
        f"worker {worker.pid} to be back at work",
    )
    return is_work_done


def add_worker(run: FaultRun) -> None:
    while len(run.in_role("work")) >= run.setup.partitions:  # one more worker would own no log partition
        run.end(run.in_role("work")[0])
    run.wanted = len(run.in_role("work")) + 1
    run.fill_roles()
    newest = run.in_role("work")[-1]
    since = len(run.reports)
    run.until(lambda: run.has_report(since, "commit", of=newest), f"worker {newest.pid} to own a log partition")
    run.wanted = WORKERS


def remove_worker(run: FaultRun) -> None:
    run.end(run.await_busy_worker())
    if len(run.in_role("work")) < WORKERS - 1:
        run.fill_roles()
    run.await_commit("after a worker left")


# --- log -----------------------------------------------------------------------------------------


def kill_producer(run: FaultRun) -> None:
    run.fill_roles()
    since = len(run.reports)
    producers = run.in_role("produce")
    run.until(
        lambda: any(run.has_report(since, "ack", of=producer) for producer in producers),
        "an append of a producer",
    )
    for producer in producers:
        run.feed_producer(producer, 60)
    _random_moment(run, 0.06)
    run.kill(run.rng.choice(producers))
    run.fill_roles()


def append_poison(kind: str, run: FaultRun) -> None:
    before = run.poison[kind]
    run.fill_roles()
    run.feed(20, kind)
    run.until(lambda: run.poison[kind] > before, f"{kind} to be appended")


def lock_topic(run: FaultRun) -> None:
    path = run.setup.settings.place("log", f"{run.setup.topic}.db")
    _lock_file(run, str(path), "file is locked")


def restart_broker(hard: bool, run: FaultRun) -> None:
    broker = run.broker
    assert broker is not None
    run.await_busy_worker()
    broker.stop(hard=hard)
    broker.start()
    since = len(run.reports)
    run.until(
        lambda: run.has_report(since, "ack") and run.has_report(since, "commit"),
        "appends and commits after the restart",
    )


# --- lake ----------------------------------------------------------------------------------------


def lock_catalog(run: FaultRun) -> None:
    _lock_file(run, str(run.setup.settings.place("lake", "catalog.db")), "catalog is locked")


def _lock_file(run: FaultRun, path: str, text: str) -> None:
    """Locks the file in another process until a worker reports that it is locked."""
    run.await_busy_worker()
    since = len(run.reports)
    holder = run.fork("lock", path=path)
    run.until(
        lambda: run.has_report(since, "warning", text=text) or run.has_report(since, "unavailable", text=text),
        f"a report that {path} is locked",
    )
    run.end(holder)
    run.fill_roles()
    run.await_commit("after the lock")


def fill_disk(run: FaultRun) -> None:
    """Fills the disk until a worker cannot write, then makes room again."""
    run.await_busy_worker()
    since = len(run.reports)

    def is_write_refused() -> bool:
        return any(
            report["what"] in ("warning", "unavailable") and any(text in report["text"] for text in _FULL)
            for report in run.reports[since:]
        )

    if run.own_disk:
        filler = run.fork("fill")
        run.until(is_write_refused, "a worker to find the disk full")
        run.end(filler)
    else:
        limited = run.in_role("work")
        for worker in limited:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        run.until(is_write_refused, "a worker to find its files limited")
        for worker in limited:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    run.fill_roles()
    run.await_commit("after there was room again")


_FULL = ("No space left", "File too large", "disk is full", "disk I/O error")


def commit_concurrently(run: FaultRun) -> None:
    run.await_busy_worker()
    since = len(run.reports)
    other_writer = run.fork("interfere")
    run.until(lambda: run.has_report(since, "interfered"), "another writer's commit")
    since = len(run.reports)
    run.until(
        lambda: run.has_report(since, "conflict", other_than=other_writer),
        "a worker's commit to conflict with another writer's",
    )
    run.end(other_writer)


def maintain_concurrently(run: FaultRun) -> None:
    run.await_busy_worker()
    since = len(run.reports)
    maintainer = run.fork("maintain")

    def did(what: str) -> bool:
        return any(report["what"] == "maintained" and report[what] for report in run.reports[since:])

    run.until(lambda: did("compacted") and did("expired"), "maintenance that compacts and expires")
    run.end(maintainer)


def kill_maintenance_at(point: str, run: FaultRun) -> None:
    run.await_busy_worker()
    maintainer = run.fork("maintain", fault=point)
    run.until(lambda: maintainer.ended is not None, f"maintenance to reach {point}")
    assert maintainer.killed


def cut_connection(when: str, run: FaultRun) -> None:
    """Cuts the connection at a commit: before the catalog gets the commit, or after, before it answers."""
    catalog_proxy = run.catalog_proxy
    assert catalog_proxy is not None
    run.await_busy_worker()
    before = len(catalog_proxy.actions)
    catalog_proxy.commits.append(f"cut {when}")
    run.until(
        lambda: len(catalog_proxy.actions) > before, f"a commit to be cut off {when} it reached the catalog"
    )
    run.await_commit("after the connection was cut")


# --- online state ---------------------------------------------------------------------------------


def lock_online_store(run: FaultRun) -> None:
    _lock_file(run, str(run.setup.settings.place("online.db")), "the online store is behind")


def edit_code(run: FaultRun) -> None:
    """Edits the rowwise function amid work, and fills its views; then the workers start with the new code."""
    run.await_busy_worker()
    run.edit_code()
    run.build()
    run.await_commit("by workers with the old code")
    _replace_workers(run)


def _replace_workers(run: FaultRun) -> None:
    for worker in run.in_role("work"):
        run.end(worker)
    run.fill_roles()
    run.await_commit("by workers with the new code")


def kill_fill(run: FaultRun) -> None:
    """Kills a build that fills the views of edited code; the next one fills them."""
    run.edit_code()
    build = run.fork("build", fault="online.fill.written", fixed=run.fixed)
    run.until(lambda: build.ended is not None, "a fill to write states")
    assert build.killed
    run.build()
    _replace_workers(run)


# --- quarantine ----------------------------------------------------------------------------------


def replay_refused(run: FaultRun) -> None:
    since = len(run.reports)
    replay = run.fork("replay")
    run.until(lambda: replay.ended is not None, "a replay")
    if not run.has_report(since, "replayed"):
        raise NotObserved("nothing was replayed")


def kill_replay(run: FaultRun) -> None:
    since = len(run.reports)
    replay = run.fork("replay")
    run.until(
        lambda: run.has_report(since, "replaying", of=replay) or replay.ended is not None, "a replay's begin"
    )
    _random_moment(run, 0.1)
    run.kill(replay)
    if not replay.killed:
        raise NotObserved("the replay ended before it was killed")


def _random_moment(run: FaultRun, most: float) -> None:
    time.sleep(run.rng.uniform(0, most))


KINDS: dict[str, Kind] = {
    "worker killed at random": kill_worker_at_random,
    **{f"worker killed at {point}": partial(kill_worker_at, point) for point in WORKER_POINTS},
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
    "another writer's commits": commit_concurrently,
    "concurrent maintenance": maintain_concurrently,
    **{f"maintenance killed at {point}": partial(kill_maintenance_at, point) for point in MAINTENANCE_POINTS},
    "commit cut off before": partial(cut_connection, "before"),
    "commit cut off after": partial(cut_connection, "after"),
    "online store's file locked": lock_online_store,
    "code edited": edit_code,
    "fill killed": kill_fill,
    "replay": replay_refused,
    "replay killed": kill_replay,
    **{f"poison: {kind}": partial(append_poison, kind) for kind in (*POISON, TOO_LARGE, "tombstone")},
}


def possible_kinds(run: FaultRun) -> list[str]:
    """The kinds that can be injected in this run."""
    impossible: set[str] = set()
    if run.broker is None:
        # SQLite refuses only records of a gigabyte.
        impossible |= {"broker restarted", "broker killed", "poison: tombstone", f"poison: {TOO_LARGE}"}
    else:
        impossible |= {"topic's file locked"}
    if run.catalog_proxy is None:
        impossible |= {"commit cut off before", "commit cut off after"}
    else:
        impossible |= {"catalog's file locked"}
    return [kind for kind in KINDS if kind not in impossible]
