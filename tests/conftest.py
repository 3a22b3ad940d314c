"""The real servers that the ports' implementations are tested on."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import hypothesis
import psycopg
import pytest
import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from services.catalog import Catalog
from services.catalog import catalog as started_catalog
from services.kafka import Broker
from services.kafka import broker as started_broker
from services.postgres import Postgres
from services.postgres import postgres as started_postgres
from services.redis import Redis
from services.redis import redis as started_redis
from services.s3 import Store
from services.s3 import store as started_store
from services.server import Missing
from tests.longest import LONGEST

from headrace.registry import client as mlflow_client

# The same examples in every run, and no clock: a busy machine fails no test. With
# `--hypothesis-profile=default` other examples are tried.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")
# What a client of httpx waits for if a test names no limit: by itself 5 s, which a busy machine may take.
DEFAULT_TIMEOUT_CONFIG.connect = DEFAULT_TIMEOUT_CONFIG.read = 60.0
DEFAULT_TIMEOUT_CONFIG.write = DEFAULT_TIMEOUT_CONFIG.pool = 60.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the files of tests, the longest begin first: the last one runs alone for a while,
    and should be short. `make test` keeps this order."""
    if hasattr(config, "workerinput"):  # in a process of pytest-xdist
        order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with _skipped_where_missing():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with _skipped_where_missing():
        return (yield)


@contextlib.contextmanager
def _skipped_where_missing() -> Iterator[None]:
    """A test whose server cannot be had on this machine is skipped, with what is missing; never in CI."""
    try:
        yield
    except Missing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The umask after each test is that before it: a verb of the command line sets a private one."""
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=True)
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow makes the tables of a new database by some sixty migrations, which take a second and more. In this
    process it does so once, and each further database gets a copy of its tables."""
    first = tmp_path_factory.mktemp("mlflow") / "tables.db"
    create_database = mlflow_client._create_database

    def create_quickly(file: Path) -> None:
        import mlflow.store.db.utils as mlflow_tables

        initialize = mlflow_tables._initialize_tables

        def copy_tables(engine: Any) -> None:
            if not first.exists():
                initialize(engine)
                copy_database(engine.url.database, first)
            else:
                copy_database(first, engine.url.database)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mlflow_tables, "_initialize_tables", copy_tables)
            create_database(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_client, "_create_database", create_quickly)
        yield


def copy_database(source: Path | str, target: Path | str) -> None:
    """Copies a SQLite file into another one."""
    with (
        contextlib.closing(sqlite3.connect(source)) as original,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        original.backup(copy)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with started_broker(Path(tmp_path_factory.mktemp("kafka"))) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    # Not in pytest's folder, which only this user may enter: PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory() as folder, started_postgres(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with started_redis(Path(tmp_path_factory.mktemp("redis"))) as running:
        yield running


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with started_store(Path(tmp_path_factory.mktemp("s3"))) as running:
        yield running


@pytest.fixture(scope="session")
def rest_catalog(object_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    folder = Path(tmp_path_factory.mktemp("catalog"))
    with started_catalog(folder, object_store.url, environment=object_store.environment) as running:
        yield running


@pytest.fixture
def empty_redis(redis_server: Redis) -> str:
    """The address of the server without keys."""
    with contextlib.closing(redis.Redis.from_url(redis_server.url)) as admin:
        admin.flushall()
    return redis_server.url


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[str]:
    """The address of a database of its own on that server."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f"create database {name}")
        yield f"{postgres.url.removesuffix('/postgres')}/{name}"
        admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def empty_broker(broker: Broker) -> Broker:
    """The broker without topics."""
    admin = AdminClient({"bootstrap.servers": broker.url.removeprefix("kafka://")})

    def topics() -> list[str]:
        return [name for name in admin.list_topics(timeout=30).topics if not name.startswith("__")]

    deadline = monotonic() + 180
    while left := topics():
        assert monotonic() < deadline, f"topics are not deleted: {left}"
        for done in admin.delete_topics(left).values():
            with contextlib.suppress(KafkaException):  # it is being deleted already
                done.result(30)
    return broker


@pytest.fixture(params=["sqlite", "kafka"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty log, of each kind."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'log'}"
    return str(request.getfixturevalue("empty_broker").url)
