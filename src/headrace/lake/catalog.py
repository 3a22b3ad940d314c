"""PyIceberg's catalog of the lake: a SQLite file or a REST service, by the profile's `catalog_url`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from pydantic import ValidationError as PydanticError
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import SqlCatalog

from headrace.config.settings import Settings
from headrace.kernel.addresses import path_of, sqlalchemy_url
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.lock import hold_lock
from headrace.kernel.private import make_private
from headrace.kernel.sqlite import open_shared
from headrace.lake.errors import name_errors
from headrace.lake.file_errors import name_file_errors
from headrace.lake.home import WAREHOUSE, update_paths
from headrace.lake.lake import address_of
from headrace.lake.pyiceberg_internals import connect_per_use

__all__ = ["open_catalog"]

BUSY_SECONDS = 15


def open_catalog(settings: Settings) -> Catalog:
    """Opens the catalog, and creates the project's namespace in it.

    Raises:
        ProjectError: the address is of an unknown kind.
        Unavailable: the catalog is locked, or does not answer.
    """
    kind = urlsplit(settings.lake.catalog_url).scheme
    address = address_of(settings)
    if kind not in ("sqlite", "http", "https"):
        raise ProjectError(
            f"{address!r} is not a valid catalog address",
            where=f"headrace.toml: profile.{settings.profile_name}.catalog",
            remedy="Write sqlite, sqlite:///path/to/file.db, or a REST catalog's https:// address.",
        )
    with name_errors(address):
        catalog = _open_sqlite(settings) if kind == "sqlite" else _open_rest(settings, address)
        catalog.create_namespace_if_not_exists(settings.project)
    return catalog


def _open_sqlite(settings: Settings) -> Catalog:
    path = path_of(settings.lake.catalog_url)
    _create_file(path, settings)
    uri = f"{sqlalchemy_url(path)}?timeout={BUSY_SECONDS}"
    warehouse = settings.lake.warehouse_url
    # Without the lock, a second process could see the catalog while the first still creates its tables.
    with hold_lock(path.with_name(f"{path.name}.lock")):
        if settings.lake.catalog == "sqlite":
            folder = update_paths(path)
            if settings.lake.warehouse == "file":
                warehouse = str(folder / WAREHOUSE)
        catalog = load_catalog("headrace", type="sql", uri=uri, warehouse=warehouse, **_object_store())
        catalog.create_namespace_if_not_exists(settings.project)
    connect_per_use(cast("SqlCatalog", catalog), uri)
    return catalog


def _open_rest(settings: Settings, address: str) -> Catalog:
    from headrace.lake.rest import TimedRestCatalog

    properties = {"type": "rest", "uri": settings.lake.catalog_url}
    if settings.lake.warehouse != "file":
        properties["warehouse"] = settings.lake.warehouse_url
    for name, variable in (("token", "TOKEN"), ("credential", "CREDENTIAL")):
        if secret := os.environ.get(f"HEADRACE_CATALOG_{variable}"):
            properties[name] = secret
    try:
        return TimedRestCatalog("headrace", **properties, **_object_store())
    except PydanticError as error:
        raise Unavailable(
            "the service at this address is not an Iceberg REST catalog",
            where=address,
            remedy="Write the address up to, and without, /v1: https://catalog.example/iceberg",
        ) from error


def _create_file(path: Path, settings: Settings) -> None:
    """Creates the catalog's file, in WAL mode."""
    settings.make_state()
    make_private(path.parent)
    with name_file_errors(str(path)):
        open_shared(path, timeout=BUSY_SECONDS).close()


def _object_store() -> dict[str, str]:
    """PyIceberg's properties of the object store, from the environment."""
    properties = {
        "s3.access-key-id": os.environ.get("AWS_ACCESS_KEY_ID"),
        "s3.secret-access-key": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        "s3.session-token": os.environ.get("AWS_SESSION_TOKEN"),
        "s3.region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        "s3.endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
    }
    if properties["s3.endpoint"]:
        properties["s3.force-virtual-addressing"] = "false"  # a private server has no DNS name per bucket
    return {name: value for name, value in properties.items() if value}
