"""Chooses how a catalog is read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from headrace.config.settings import Settings
from headrace.kernel.addresses import path_of
from headrace.kernel.sqlite import connect
from headrace.lake.file_errors import name_file_errors
from headrace.lake.home import is_home
from headrace.lake.reading.embedded import BUSY_SECONDS, EmbeddedReader

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

    from headrace.lake.reading.port import CatalogReader

__all__ = ["open_reader"]


def open_reader(settings: Settings, where: str, catalog: Callable[[], Catalog]) -> CatalogReader:
    """The reader of the settings' catalog: without PyIceberg if it and its files are embedded.

    Args:
        settings: the settings.
        where: the catalog's address, for errors.
        catalog: opens PyIceberg's catalog. It also rewrites the paths of an embedded lake that was moved.

    Raises:
        ProjectError: the address is of an unknown kind.
        Unavailable: the catalog is locked, or does not answer.
    """
    if settings.lake.catalog != "sqlite" or settings.lake.warehouse != "file":
        from headrace.lake.reading.pyiceberg import PyIcebergReader

        return PyIcebergReader(catalog(), settings.project, where)
    path = path_of(settings.lake.catalog_url)
    with name_file_errors(where):
        if path.is_file():
            with closing(connect(path, timeout=BUSY_SECONDS)) as connection:
                moved = not is_home(connection, path.parent)
            if moved:
                catalog()
    return EmbeddedReader(path, settings.project)
