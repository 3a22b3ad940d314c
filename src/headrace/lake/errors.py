"""Turns errors of the catalog's libraries into this project's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    ForbiddenError,
    NoSuchNamespaceError,
    NoSuchTableError,
    OAuthError,
    RESTError,
    UnauthorizedError,
)
from requests.exceptions import RequestException
from sqlalchemy.exc import DatabaseError, OperationalError

from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.secrets import clean_text
from headrace.kernel.sqlite import is_locked

__all__ = ["name_errors"]


@contextmanager
def name_errors(where: str, table: str | None = None) -> Iterator[None]:
    """Turns errors of the catalog and of files in the block into Unavailable, a missing table into CallError.

    Args:
        where: the catalog's address, for the error.
        table: the table, for the error.
    """
    try:
        yield
    except (NoSuchTableError, NoSuchNamespaceError) as error:
        raise CallError(
            f"table {table!r} does not exist in the lake",
            where=where,
            remedy="headrace build creates tables; headrace ingest creates a topic's table.",
        ) from error
    except OperationalError as error:
        raise _sqlite(error, where) from error
    except DatabaseError as error:
        raise Unavailable(
            f"the catalog cannot be read: {error.orig}",
            where=where,
            remedy="Check that this file is an Iceberg SQL catalog.",
        ) from error
    except (UnauthorizedError, ForbiddenError, AuthorizationExpiredError, OAuthError) as error:
        raise Unavailable(
            f"the catalog refused our credentials: {clean_text(str(error))}",
            where=where,
            remedy="Set HEADRACE_CATALOG_TOKEN, or HEADRACE_CATALOG_CREDENTIAL as id:secret.",
        ) from error
    except (RESTError, RequestException) as error:
        raise Unavailable(
            f"the catalog does not answer as it should: {clean_text(str(error))}",
            where=where,
            remedy="Check that it runs: headrace doctor.",
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


def _sqlite(error: OperationalError, where: str) -> Unavailable:
    reason = str(error.orig)
    if is_locked(reason):
        return Unavailable(
            "the catalog is locked by another process",
            where=where,
            remedy="End the process that locks it (a copy, a database browser?), and try again.",
        )
    return Unavailable(
        f"the catalog cannot be used: {reason}",
        where=where,
        remedy="Check that the disk has room, and that this user may write there.",
    )
