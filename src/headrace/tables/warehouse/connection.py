"""Connections to the PostgreSQL of a publication."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from headrace.kernel.addresses import check_postgres_password, is_postgres_address
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.secrets import clean_text

__all__ = ["transaction"]


@contextmanager
def transaction(url: str, where: str) -> Iterator[psycopg.Cursor]:
    """A cursor; what is not committed at the end of the block is rolled back.

    Args:
        url: the address of the PostgreSQL database.
        where: the declaration of the publication, for errors.

    Raises:
        ProjectError: the address is not PostgreSQL's, or PostgreSQL refuses what it is asked.
        Unavailable: PostgreSQL cannot be reached or went away; nothing has changed.
    """
    if not is_postgres_address(url):
        scheme = url.partition(":")[0]
        raise ProjectError(f"a star schema is published to PostgreSQL, not to {scheme}", where=where)
    check_postgres_password(url, "databases")
    try:
        options: dict[str, Any] = {
            "connect_timeout": 10,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        }
        with (
            psycopg.connect(url, client_encoding="UTF8", **options) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("set timezone = 'UTC'; set maintenance_work_mem = '256MB'")  # for the indexes
            yield cursor
            connection.rollback()
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable(
            clean_text(f"PostgreSQL went away or cannot do it now: {str(error).splitlines()[0]}"),
            where=where,
            remedy="Its readers see the last publication. headrace build publishes again.",
        ) from error
    except psycopg.Error as error:
        message = clean_text(" ".join(str(error).split()))
        raise ProjectError(f"PostgreSQL refuses it: {message}", where=where) from error
