"""Failures of a remote catalog and object store: lost answers, refusals, outages and wrong credentials."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pytest
from services.catalog import Catalog
from services.catalog import catalog as run_catalog
from services.s3 import store as run_store
from tests.lake.catalog_proxy import CatalogProxy, proxy_catalog
from tests.lake.folder import missing_files
from tests.until import until

from headrace import lake
from headrace.config.settings import Settings, make_settings
from headrace.kernel.errors import Conflict, HeadraceError, Unavailable
from headrace.kernel.position import LogPosition
from headrace.lake import LakeTable

START = LogPosition("events", "id-1")
SCHEMA = pa.schema([("o", pa.int64())])


@pytest.fixture
def proxy(rest_catalog: Catalog) -> Iterator[CatalogProxy]:
    with proxy_catalog(rest_catalog.port) as proxy:
        yield proxy


@pytest.fixture
def settings(remote: Settings, proxy: CatalogProxy) -> Settings:
    return remote.with_values(catalog=proxy.url)


@pytest.fixture
def table(settings: Settings) -> LakeTable:
    table = lake.open(settings).ensure("events", SCHEMA)
    table.append(pa.table({"o": [0]}), position=("ingest", None, START.with_offsets({0: 1})))
    return table


def append(table: LakeTable, offset: int) -> object:
    """Appends a row at the offset and moves the position past it."""
    begin = START.with_offsets({0: offset})
    return table.append(
        pa.table({"o": [offset]}), position=("ingest", begin, begin.with_offsets({0: offset + 1}))
    )


def offsets(table: LakeTable) -> list[int]:
    return sorted(table.scan().collect()["o"].to_list())


@pytest.mark.parametrize("lost", ["cut after", "500 after", "502 after", "504 after"])
def test_commit_whose_answer_is_lost_counts_once(table: LakeTable, proxy: CatalogProxy, lost: str) -> None:
    proxy.commits.append(lost)
    assert append(table, 1) == table.current_snapshot()
    assert proxy.actions == [lost]
    assert offsets(table) == [0, 1]
    append(table, 2)
    assert offsets(table) == [0, 1, 2]
    assert missing_files(table) == set()


@pytest.mark.parametrize("lost", ["cut before", "500", "503", "429"])
def test_commit_without_an_answer_is_reported_as_unknown(
    table: LakeTable, proxy: CatalogProxy, lost: str
) -> None:
    proxy.commits.append(lost)
    with pytest.raises(Unavailable, match="outcome is unknown"):
        append(table, 1)
    assert offsets(table) == [0]
    assert table.position("ingest") == START.with_offsets({0: 1})
    append(table, 1)
    assert offsets(table) == [0, 1]


def test_unseen_commit_makes_a_second_write_a_conflict(
    table: LakeTable, proxy: CatalogProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, and the catalog is unavailable when the lake looks for the commit."""
    proxy.commits.append("cut after")
    commit_table = type(table.catalog).commit_table

    def commit_then_fail(*arguments: object) -> object:
        try:
            return commit_table(*arguments)
        finally:
            proxy.away = True

    monkeypatch.setattr(type(table.catalog), "commit_table", commit_then_fail)
    with pytest.raises(Unavailable, match="outcome is unknown"):
        append(table, 1)
    monkeypatch.undo()
    with pytest.raises(Unavailable, match="does not answer"):
        table.current_snapshot()
    proxy.away = False
    with pytest.raises(Conflict, match="moved log partition 0 to 2"):
        append(table, 1)
    assert offsets(table) == [0, 1]


def test_refused_commit_is_tried_again(table: LakeTable, proxy: CatalogProxy) -> None:
    proxy.commits.extend(["409", "409", "409"])
    append(table, 1)
    assert proxy.actions == ["409"] * 3
    assert offsets(table) == [0, 1]
    assert missing_files(table) == set()


@pytest.mark.parametrize("lost", ["cut after", "500 after", "409", "503"])
def test_tags_and_maintenance_survive_a_lost_answer(table: LakeTable, proxy: CatalogProxy, lost: str) -> None:
    first = table.current_snapshot()
    assert first is not None
    append(table, 1)
    for act in (
        lambda: table.create_tag("kept", first.id),
        lambda: lake.maintain(table),
        lambda: lake.maintain(table),
        lambda: table.remove_tag("kept"),
    ):
        proxy.commits.append(lost)
        try:
            act()
        except HeadraceError as error:
            assert error.retryable  # noqa: PT017
            act()
    assert table.tags() == {}
    assert offsets(table) == [0, 1]


@pytest.mark.parametrize("status", ["401", "403"])
def test_refused_token_is_reported_and_not_shown(
    table: LakeTable, settings: Settings, proxy: CatalogProxy, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setenv("HEADRACE_CATALOG_TOKEN", "a-very-secret-token")
    own = lake.open(settings).table("events")
    proxy.commits.extend([status] * 5)  # PyIceberg asks for a new token between attempts
    with pytest.raises(Unavailable, match="refused our credentials") as caught:
        append(own, 1)
    assert "HEADRACE_CATALOG_TOKEN" in str(caught.value)
    assert "a-very-secret-token" not in f"{caught.value!r} {caught.value}"
    proxy.commits.clear()
    assert offsets(table) == [0]


def test_wrong_object_store_keys_are_reported_and_not_shown(
    table: LakeTable, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-wrong-secret")
    own = lake.open(settings).table("events")
    with pytest.raises(Unavailable, match="AWS_SECRET_ACCESS_KEY") as caught:
        append(own, 1)
    assert "a-very-wrong-secret" not in f"{caught.value!r} {caught.value}"
    assert offsets(table) == [0]


def test_address_without_a_catalog_is_reported(remote: Settings, object_store: object) -> None:
    url = str(getattr(object_store, "environment")["AWS_ENDPOINT_URL_S3"])  # noqa: B009
    wrong = remote.with_values(catalog=url.replace("//", "//user:secret@"))
    with pytest.raises(Unavailable) as caught:
        lake.open(wrong)
    assert "secret" not in str(caught.value)


def test_commits_survive_a_restart_of_catalog_and_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is killed and started again while a writer retries, as ingest does."""
    folders = [tmp_path / name for name in ("s3", "catalog", "project")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as running:
        first_store = running.enter_context(ExitStack())
        store = first_store.enter_context(run_store(folders[0]))
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        first_catalog = running.enter_context(ExitStack())
        catalog = first_catalog.enter_context(run_catalog(folders[1], store.url, environment=store.environment))
        values = {"catalog": catalog.url, "warehouse": store.url}
        settings = make_settings(folders[2], "shop", "remote", state=folders[2] / "state", values=values)
        table = lake.open(settings).ensure("events", SCHEMA)
        commits, failures, stop = [0], [], threading.Event()

        def write() -> None:
            while not stop.is_set():
                try:
                    position = table.position("ingest") or START
                    assert isinstance(position, LogPosition)
                    append(table, position.next_offset(0))
                    commits[0] += 1
                except HeadraceError as error:
                    failures.append(error)
                    stop.wait(0.05)

        def wait_for_commits(count: int) -> None:
            goal = commits[0] + count
            until(lambda: commits[0] >= goal, "the writer did not commit")

        thread = threading.Thread(target=write)
        thread.start()
        try:
            wait_for_commits(3)
            first_catalog.close()
            running.enter_context(
                run_catalog(folders[1], store.url, catalog.port, environment=store.environment)
            )
            wait_for_commits(3)
            first_store.close()
            running.enter_context(run_store(folders[0], store.port))
            wait_for_commits(3)
        finally:
            stop.set()
            thread.join(60)
        assert failures
        assert all(error.retryable for error in failures)
        position = table.position("ingest")
        assert isinstance(position, LogPosition)
        assert offsets(table) == list(range(position.next_offset(0)))
        assert missing_files(table) == set()
