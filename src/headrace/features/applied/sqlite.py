"""Feast's SQL registry in a SQLite file. Does not import Feast."""

from __future__ import annotations

from contextlib import closing
from sqlite3 import Connection
from typing import Any

from headrace.config.settings import Settings
from headrace.features.applied.tables import VERSIONS, select_protos, statement_of_leftovers
from headrace.kernel.addresses import path_of, sqlalchemy_url
from headrace.kernel.digest import digest_bytes, digest_value
from headrace.kernel.private import make_private
from headrace.kernel.sqlite import name_errors, open_shared, transaction

__all__ = ["SqliteRegistry"]

_SECONDS = 5  # that it and Feast wait for another process's lock
_WHAT = "Feast's registry"
_RESTORE = "Remove the file: headrace build writes it anew."


class SqliteRegistry:
    """A SqlRegistry of one project in a file of its own."""

    def __init__(self, settings: Settings) -> None:
        self._project, self._file = settings.project, path_of(settings.features.registry_url)

    def config(self) -> dict[str, Any]:
        """See SqlRegistry. The path is absolute, because Feast reads one from the folder of the process."""
        return {
            "registry_type": "sql",
            "path": sqlalchemy_url(self._file),
            "cache_ttl_seconds": 60,
            "sqlalchemy_config_kwargs": {"echo": False, "connect_args": {"timeout": _SECONDS}},
        }

    def prepare(self) -> None:
        """See SqlRegistry."""
        with name_errors(_WHAT, self._file, restore=_RESTORE):
            if not self._file.parent.is_dir():
                make_private(self._file.parent)
            with closing(open_shared(self._file, timeout=_SECONDS)) as connection, transaction(connection):
                if self._exists(connection):
                    connection.execute(statement_of_leftovers(str))

    def digest(self) -> str:
        """See SqlRegistry."""
        if not self._file.exists():
            return ""
        with (
            name_errors(_WHAT, self._file, restore=_RESTORE),
            closing(open_shared(self._file, timeout=_SECONDS)) as connection,
            transaction(connection, write=False),
        ):
            if not self._exists(connection):
                return ""
            statement = select_protos(str, ":project", str)
            rows = connection.execute(statement, {"project": self._project}).fetchall()
        return digest_value([(table, name, digest_bytes(proto)) for table, name, proto in rows]) if rows else ""

    def _exists(self, connection: Connection) -> bool:
        """Whether Feast has created its tables, which it does all at once."""
        statement = "select 1 from sqlite_master where name = ?"
        return connection.execute(statement, (VERSIONS,)).fetchone() is not None
