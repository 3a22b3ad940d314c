"""The verb `clean`, and the locks that it respects."""

from __future__ import annotations

import threading

import pytest

from headrace.config.settings import Settings
from headrace.flows.build import build, hold_build_lock
from headrace.flows.project import clean as cleaning
from headrace.flows.project.clean import clean
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.lock import find_holder
from headrace.projects.running import hold_up_lock
from headrace.workspace import Workspace


def test_clean_removes_the_state_and_the_pointers_and_leaves_code_and_data(tiny: Settings) -> None:
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


def test_a_pipeline_of_somebody_else_is_neither_replaced_nor_deleted(tiny: Settings) -> None:
    pipeline = {"dvc.yaml": "stages:\n  mine:\n    cmd: echo 1\n", "dvc.lock": "schema: '2.0'\n"}
    for name, text in pipeline.items():
        (tiny.root / name).write_text(text)
    with pytest.raises(ProjectError, match=r"dvc\.yaml was not written by Headrace"):
        build(Workspace(tiny))
    tiny.make_state()
    assert {path.name for path in clean(tiny).paths} == {"local"}
    assert {name: (tiny.root / name).read_text() for name in pipeline} == pipeline


def test_clean_is_refused_during_a_build_or_up_and_removes_nothing(tiny: Settings) -> None:
    build(Workspace(tiny))
    before = sorted(tiny.root.rglob("*"))
    with hold_build_lock(tiny), pytest.raises(Unavailable, match="another build"):
        clean(tiny)
    with hold_up_lock(tiny), pytest.raises(Unavailable, match="`headrace up` is already running here"):
        clean(tiny)
    assert {path for path in before if not path.exists()} == set()


def test_a_build_that_begins_during_clean_is_refused(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    build(Workspace(tiny))
    refused = []

    def begin_build(point: str) -> None:
        with pytest.raises(Unavailable, match="another build"):
            build(Workspace(tiny))
        refused.append(point)

    monkeypatch.setattr(cleaning, "reach", begin_build)
    clean(tiny)
    assert refused == ["clean.state"]
    assert build(Workspace(tiny)).stages


def test_reading_the_lock_does_not_keep_a_build_from_beginning(tiny: Settings) -> None:
    path = tiny.make_state() / "build.lock"
    path.touch()
    stop = threading.Event()

    def read_lock() -> None:
        while not stop.is_set():
            find_holder(path)

    readers = [threading.Thread(target=read_lock) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(300):
            with hold_build_lock(tiny):
                assert find_holder(path)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
