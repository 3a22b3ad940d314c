"""clean, and who holds the build's lock."""

from __future__ import annotations

import threading

import pytest

from headrace.config.settings import Settings
from headrace.flows.build import build, hold_build_lock
from headrace.flows.project import clean as cleaning
from headrace.flows.project.clean import clean
from headrace.kernel.errors import Unavailable
from headrace.kernel.lock import find_holder
from headrace.projects.running import hold_up_lock
from headrace.workspace import Workspace


def test_it_takes_away_the_state_and_the_pointers_and_leaves_code_and_data(tiny: Settings) -> None:
    build(Workspace(tiny))
    assert {path.name for path in clean(tiny).paths} == {"pointers", "dvc.lock", "dvc.yaml", "local"}
    left = {path.name for path in tiny.root.iterdir()}
    assert left == {"tiny", "data", "headrace.toml", ".dvc", ".dvcignore", ".headrace"}
    assert list((tiny.root / ".headrace").iterdir()) == []
    assert clean(tiny).paths == ()
    assert [stage.stage for stage in build(Workspace(tiny)).stages] == [
        "table-doubled",
        "table-total",
        "table-count",
    ]


def test_beside_a_build_or_up_it_is_refused_and_takes_nothing(tiny: Settings) -> None:
    build(Workspace(tiny))
    before = sorted(tiny.root.rglob("*"))
    with hold_build_lock(tiny), pytest.raises(Unavailable, match="another build"):
        clean(tiny)
    with hold_up_lock(tiny), pytest.raises(Unavailable, match="`headrace up` runs here"):
        clean(tiny)
    assert {path for path in before if not path.exists()} == set()


def test_a_build_that_begins_while_it_deletes_is_refused(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(Workspace(tiny))
    refused = []

    def begin(point: str) -> None:
        with pytest.raises(Unavailable, match="another build"):
            build(Workspace(tiny))
        refused.append(point)

    monkeypatch.setattr(cleaning, "reach", begin)
    clean(tiny)
    assert refused == ["clean.state"]
    assert build(Workspace(tiny)).stages


def test_who_looks_at_the_lock_does_not_keep_a_build_from_beginning(tiny: Settings) -> None:
    path = tiny.make_state() / "build.lock"
    path.touch()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            find_holder(path)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(300):
            with hold_build_lock(tiny):
                assert find_holder(path)
    finally:
        stop.set()
        for looker in lookers:
            looker.join()
