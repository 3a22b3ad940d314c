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
from sqlalchemy.exc import DatabaseError

from headrace.kernel.errors import Unavailable
from headrace.kernel.secrets import clean_text
from headrace.lake.file_errors import missing_table, name_file_errors, unreadable_catalog

__all__ = ["name_catalog_errors", "name_errors"]


@contextmanager
def name_errors(where: str, table: str | None = None) -> Iterator[None]:
    """Turns errors of the catalog and of files in the block into Unavailable, a missing table into CallError.

    Args:
        where: the catalog's address, for the error.
        table: the table, for the error.
    """
    with name_file_errors(where, table), name_catalog_errors(where, table):
        yield


@contextmanager
def name_catalog_errors(where: str, table: str | None = None) -> Iterator[None]:
    """Turns errors of the catalog in the block as `name_errors` does, and leaves those of files."""
    try:
        yield
    except (NoSuchTableError, NoSuchNamespaceError) as error:
        raise missing_table(table, where) from error
    except DatabaseError as error:
        raise unreadable_catalog(error.orig or error, where) from error
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
