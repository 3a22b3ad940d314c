"""The kinds of fault. Each strikes once, amid work, and returns when that was seen; else it raises Missed."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable
from functools import partial

from tests.faults.poison import POISON
from tests.faults.scene import WORKERS, Child, Missed, Scene

__all__ = ["KINDS", "Kind", "kinds_of"]

Kind = Callable[[Scene], None]

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


def killed_at(point: str, scene: Scene) -> None:
    worker = scene.busy()
    scene.arm(worker, f"{point}:{scene.chance.randint(1, 3)}")
    scene.until(lambda: worker.ended is not None, f"worker {worker.pid} to reach {point}")
    assert worker.killed
    scene.hire()


def killed_at_random(scene: Scene) -> None:
    worker = scene.busy()
    _random_moment(scene, 0.15)
    scene.kill(worker)
    scene.hire()


def hung_at_random(scene: Scene) -> None:
    taken_over = False
    while not taken_over:
        worker = scene.busy()
        _random_moment(scene, 0.1)
        worker.send(signal.SIGSTOP)
        taken_over = _taken_over_and_woken(scene, worker)


def hung_at(point: str, scene: Scene) -> None:
    taken_over = False
    while not taken_over:
        worker = scene.busy()
        scene.arm(worker, f"{point}:1:STOP")
        taken_over = _taken_over_and_woken(scene, worker)


def _taken_over_and_woken(scene: Scene, worker: Child) -> bool:
    """Whether others did the work of a worker that hangs, until it was woken. One of its threads may hang
    within a transaction of a SQLite file: then all wait for it."""
    scene.until(lambda: worker.stopped, f"worker {worker.pid} to stop")
    scene.feed(80)
    left = scene.ends.copy()
    since = len(scene.told)

    def taken_over() -> bool:
        return not left - scene.position

    def locked_out() -> bool:
        return scene.heard(since, "warning", text="locked") or scene.heard(since, "away", text="locked")

    scene.until(lambda: taken_over() or locked_out(), "the others to do what was left to the one that hangs")
    did = taken_over()
    since = len(scene.told)
    worker.stopped = False
    worker.send(signal.SIGCONT)
    scene.until(
        lambda: any(one["pid"] == worker.pid for one in scene.told[since:]),
        f"worker {worker.pid} to be back at work",
    )
    return did


def joins(scene: Scene) -> None:
    while len(scene.playing("work")) >= scene.stage.partitions:  # one more would have no share
        scene.end(scene.playing("work")[0])
    scene.wanted = len(scene.playing("work")) + 1
    scene.hire()
    newest = scene.playing("work")[-1]
    since = len(scene.told)
    scene.until(lambda: scene.heard(since, "commit", of=newest), f"worker {newest.pid} to have its share")
    scene.wanted = WORKERS


def leaves(scene: Scene) -> None:
    scene.end(scene.busy())
    if len(scene.playing("work")) < WORKERS - 1:
        scene.hire()
    scene.committed("after a worker left")


# --- log -----------------------------------------------------------------------------------------


def producer_killed(scene: Scene) -> None:
    scene.hire()
    since = len(scene.told)
    producers = scene.playing("produce")
    scene.until(lambda: any(scene.heard(since, "ack", of=one) for one in producers), "an append of a producer")
    for one in producers:
        scene.feed_one(one, 60)
    _random_moment(scene, 0.06)
    scene.kill(scene.chance.choice(producers))
    scene.hire()


def poisoned(kind: str, scene: Scene) -> None:
    before = scene.poison[kind]
    scene.hire()
    scene.feed(20, kind)
    scene.until(lambda: scene.poison[kind] > before, f"{kind} to be appended")


def topic_locked(scene: Scene) -> None:
    path = scene.stage.settings.place("log", f"{scene.stage.topic}.db")
    _held(scene, str(path), "locked for")


def broker_restarted(hard: bool, scene: Scene) -> None:
    broker = scene.broker
    assert broker is not None
    scene.busy()
    broker.stop(hard=hard)
    broker.start()
    since = len(scene.told)
    scene.until(
        lambda: scene.heard(since, "ack") and scene.heard(since, "commit"),
        "appends and commits after the restart",
    )


# --- lake ----------------------------------------------------------------------------------------


def catalog_locked(scene: Scene) -> None:
    _held(scene, str(scene.stage.settings.place("lake", "catalog.db")), "catalog is locked")


def _held(scene: Scene, path: str, text: str) -> None:
    """Somebody holds the file until work was turned away from it."""
    scene.busy()
    since = len(scene.told)
    holder = scene.fork("hold", path=path)
    scene.until(
        lambda: scene.heard(since, "warning", text=text) or scene.heard(since, "away", text=text),
        f"somebody to be turned away from {path}",
    )
    scene.end(holder)
    scene.hire()
    scene.committed("after the lock")


def full(scene: Scene) -> None:
    """The disk is full until a worker could not write; then there is room again."""
    scene.busy()
    since = len(scene.told)

    def turned_away() -> bool:
        return any(
            one["what"] in ("warning", "away") and any(text in one["text"] for text in _FULL)
            for one in scene.told[since:]
        )

    if scene.own_disk:
        filler = scene.fork("fill")
        scene.until(turned_away, "a worker to find the disk full")
        scene.end(filler)
    else:
        limited = scene.playing("work")
        for worker in limited:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        scene.until(turned_away, "a worker to find its files limited")
        for worker in limited:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    scene.hire()
    scene.committed("after there was room again")


_FULL = ("No space left", "File too large", "disk is full", "disk I/O error")


def conflicts(scene: Scene) -> None:
    scene.busy()
    since = len(scene.told)
    meddler = scene.fork("meddle")
    scene.until(lambda: scene.heard(since, "meddled"), "another writer's commit")
    since = len(scene.told)
    scene.until(
        lambda: scene.heard(since, "beaten", other_than=meddler),
        "a worker's commit to be beaten by another writer's",
    )
    scene.end(meddler)


def kept_beside(scene: Scene) -> None:
    scene.busy()
    since = len(scene.told)
    keeper = scene.fork("keep")

    def did(what: str) -> bool:
        return any(one["what"] == "kept" and one[what] for one in scene.told[since:])

    scene.until(lambda: did("compacted") and did("expired"), "maintenance that compacts and expires")
    scene.end(keeper)


def keeper_killed_at(point: str, scene: Scene) -> None:
    scene.busy()
    keeper = scene.fork("keep", fault=point)
    scene.until(lambda: keeper.ended is not None, f"maintenance to reach {point}")
    assert keeper.killed


def cut(when: str, scene: Scene) -> None:
    """The connection is cut at a commit: before it reached the catalog, or after, before its answer."""
    door = scene.door
    assert door is not None
    scene.busy()
    before = len(door.actions)
    door.commits.append(f"cut {when}")
    scene.until(lambda: len(door.actions) > before, f"a commit to be cut off {when} it went through")
    scene.committed("after the connection was cut")


# --- quarantine ----------------------------------------------------------------------------------


def replayed(scene: Scene) -> None:
    since = len(scene.told)
    replay = scene.fork("replay")
    scene.until(lambda: replay.ended is not None, "a replay")
    if not scene.heard(since, "replayed"):
        raise Missed("nothing was replayed")


def replay_killed(scene: Scene) -> None:
    since = len(scene.told)
    replay = scene.fork("replay")
    scene.until(
        lambda: scene.heard(since, "replaying", of=replay) or replay.ended is not None, "a replay's begin"
    )
    _random_moment(scene, 0.1)
    scene.kill(replay)
    if not replay.killed:
        raise Missed("the replay was quicker")


def _random_moment(scene: Scene, most: float) -> None:
    time.sleep(scene.chance.uniform(0, most))


KINDS: dict[str, Kind] = {
    "worker killed at random": killed_at_random,
    **{f"worker killed at {point}": partial(killed_at, point) for point in POINTS},
    "worker hangs at random, wakes": hung_at_random,
    **{f"worker hangs at {p}, wakes": partial(hung_at, p) for p in ("lake.before_commit", "lake.after_commit")},
    "worker joins": joins,
    "worker leaves": leaves,
    "producer killed": producer_killed,
    "topic's file locked": topic_locked,
    "broker restarted": partial(broker_restarted, False),
    "broker killed": partial(broker_restarted, True),
    "catalog's file locked": catalog_locked,
    "disk full": full,
    "another writer's commits": conflicts,
    "maintenance beside": kept_beside,
    **{f"maintenance killed at {point}": partial(keeper_killed_at, point) for point in KEEPING},
    "commit cut off before": partial(cut, "before"),
    "commit cut off after": partial(cut, "after"),
    "replay": replayed,
    "replay killed": replay_killed,
    **{f"poison: {kind}": partial(poisoned, kind) for kind in (*POISON, "tombstone")},
}


def kinds_of(scene: Scene) -> list[str]:
    """The kinds that can strike in this scene."""
    cannot: set[str] = set()
    if scene.broker is None:
        cannot |= {"broker restarted", "broker killed", "poison: tombstone"}
    else:
        cannot |= {"topic's file locked"}
    if scene.door is None:
        cannot |= {"commit cut off before", "commit cut off after"}
    else:
        cannot |= {"catalog's file locked"}
    return [kind for kind in KINDS if kind not in cannot]
