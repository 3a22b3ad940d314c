"""Sources in S3, on a real store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.store import S3Store
from services.s3 import BUCKET, Store, store
from tests.flows.builds import run_build
from tests.tiny import write

from headrace.config.settings import Settings, load_settings
from headrace.declare.source import source
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.lake import open as open_lake
from headrace.projects.project import load_project
from headrace.tables.files import digest_of, read_files
from headrace.tables.objects import fetch_objects, object_versions

TABLES = """
from headrace import source, table

orders = source("orders", "s3://shop/in", glob="*.csv")

@table(reads=orders)
def copied(rows):
    return rows
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(running: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    endpoint = running.environment["AWS_ENDPOINT_URL_S3"]
    bucket = S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True})
    yield bucket
    for batch in bucket.list():
        for entry in batch:
            bucket.delete(entry["path"])


@pytest.fixture
def tiny(tmp_path: Path) -> Settings:
    return load_settings(write(tmp_path / "project", TABLES))


def test_objects_under_an_address_are_read_by_column_name(bucket: S3Store, tiny: Settings) -> None:
    bucket.put("in/b/2.csv", b"v,id\n0.5,2\n")
    bucket.put("in/1.csv", b"id,v\n1,2\n")
    bucket.put("in/_old/3.csv", b"id,v\n9,9\n")
    bucket.put("in/.3.csv", b"id,v\n9,9\n")
    bucket.put("inside/4.csv", b"id,v\n9,9\n")
    project = load_project(tiny)
    orders = source("orders", "s3://shop/in")
    assert read_files(project, orders).collect().rows() == [(1, 2.0), (2, 0.5)]
    assert read_files(project, source("one", "s3://shop/in/1.csv")).collect().rows() == [(1, 2)]
    assert list(object_versions("s3://shop/in", "*", "")) == ["in/1.csv", "in/b/2.csv"]
    assert list(object_versions("s3://shop/in", "2*", "")) == ["in/b/2.csv"]


def test_a_changed_object_is_copied_again_and_its_former_copy_removed(bucket: S3Store, tiny: Settings) -> None:
    project, orders = load_project(tiny), source("orders", "s3://shop/in")
    bucket.put("in/1.csv", b"id\n1\n")
    bucket.put("in/2.csv", b"id\n2\n")
    first, digest = fetch_objects(tiny, orders), digest_of(project, orders)
    bucket.put("in/2.csv", b"id\n3\n")  # of the same size, within the same second
    assert digest_of(project, orders) != digest
    assert read_files(project, orders).collect()["id"].to_list() == [1, 3]
    second = fetch_objects(tiny, orders)
    assert [copy.is_file() for copy in first] == [True, False]
    assert set(second) & set(first) == {next(iter(first))}


def test_an_object_that_cannot_be_read_is_named_by_its_address(bucket: S3Store, tiny: Settings) -> None:
    bucket.put("in/1.csv", b"id,v\n1\n")
    with pytest.raises(ProjectError, match="the row has 1 cell") as refused:
        read_files(load_project(tiny), source("orders", "s3://shop/in"))
    assert refused.value.where == "s3://shop/in/1.csv, row 2"


def test_an_address_without_objects_and_a_wrong_key_are_told_apart(
    bucket: S3Store, tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProjectError, match="no objects at s3://shop/none"):
        object_versions("s3://shop/none", "*", "here")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(Unavailable, match="the objects at s3://shop/in cannot be read") as refused:
        object_versions("s3://shop/in", "*", "here")
    assert "wrong-secret" not in str(refused.value)


def test_a_build_follows_the_objects(bucket: S3Store, tiny: Settings) -> None:
    bucket.put("in/1.csv", b"id\n1\n")
    assert run_build(tiny) == ["table-copied"]
    assert run_build(tiny) == []
    bucket.put("in/2.csv", b"id\n2\n")
    assert run_build(tiny) == ["table-copied"]
    rows = open_lake(tiny).table("copied").scan().collect()
    assert rows["id"].sort().to_list() == [1, 2]
