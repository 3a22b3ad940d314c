"""Turns errors of files and of SQLite into this project's errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.private import NO_PERMISSION
from headrace.kernel.secrets import clean_text
from headrace.kernel.sqlite import name_error

__all__ = ["missing_table", "name_file_errors", "unreadable_catalog"]


def missing_table(table: str | None, where: str) -> CallError:
    """The error of a table that does not exist."""
    return CallError(
        f"table {table!r} does not exist in the lake",
        where=where,
        remedy="headrace build creates tables; headrace ingest creates a topic's table.",
    )


@contextmanager
def name_file_errors(where: str, table: str | None = None) -> Iterator[None]:
    """Turns errors of SQLite and of files in the block into Unavailable.

    Args:
        where: the catalog's address, for the error.
        table: the table, for the error.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise unreadable_catalog(error, where) from error
    except PermissionError as error:
        raise Unavailable(
            f"the lake's files cannot be read or written: {error.strerror}",
            where=str(error.filename or where),
            remedy=NO_PERMISSION,
        ) from error
    except OSError as error:
        store = "AWS Error" in str(error)
        raise Unavailable(
            f"the warehouse's files cannot be read or written: {clean_text(str(error))}",
            where=where if table is None else f"table {table} in {where}",
            remedy="Check that the object store runs, and that AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "AWS_REGION and AWS_ENDPOINT_URL_S3 are right."
            if store
            else "Check that the warehouse exists, that the disk has room, and that this user may write there.",
        ) from error


def unreadable_catalog(error: BaseException, where: str) -> Unavailable:
    """The error of an SQL catalog that cannot be used."""
    remedy = "Check that it is an Iceberg SQL catalog; if it was one, restore a copy of it."
    if isinstance(error, sqlite3.Error):
        return name_error(error, "the catalog", where, remedy)
    return Unavailable(f"the catalog cannot be read: {error}", where=where, remedy=remedy)
