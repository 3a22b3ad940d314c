"""PostgreSQL databases: a pool of connections with deadlines. Import it only if psycopg is installed.

Nothing here waits without a limit, neither for a server that is away nor for one that does not answer.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from headrace.kernel.digest import short_digest
from headrace.kernel.errors import Unavailable
from headrace.kernel.pool import ConnectionPool

__all__ = ["PostgresConnection", "PostgresPool", "create_schema", "schema_of"]

_T = TypeVar("_T")
_CONNECT = 2  # seconds, for each address of the server; psycopg's least
_STATEMENT = 300.0  # seconds that a statement may take
_LINK: dict[str, Any] = {
    "connect_timeout": _CONNECT,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "UTF8",
    "prepare_threshold": None,  # psycopg drops every prepared statement of a connection after a DROP
}
_BINARY = 1  # a format
_LONGEST_NAME = 63  # bytes of a name in PostgreSQL, which cuts off the rest
_INTERVAL = 0.1  # seconds between two checks for Ctrl-C
# A statement is planned once, because planning takes longer than a lookup, and it never reads a whole table
# where there is an index: PostgreSQL would, for 100 keys of a small table.
_SESSION = """
set plan_cache_mode = force_generic_plan; set jit = off; set enable_seqscan = off; set enable_bitmapscan = off;
set enable_hashjoin = off; set enable_mergejoin = off; set lock_timeout = '60s'; set timezone = 'UTC'
"""


def schema_of(project: str) -> str:
    """The name of the schema that holds what a project keeps in a database."""
    name = f"headrace_{project}"
    return name if len(name) <= _LONGEST_NAME else f"{name[:30]}_{short_digest(project)}"


def create_schema(connection: PostgresConnection, schema: str) -> None:
    """Creates the schema if it does not exist. PostgreSQL itself asks for the right to create one even then."""
    (oid,) = connection.execute("select to_regnamespace(%s)", (schema,)).fetchone() or (None,)
    if oid is None:
        connection.execute(f"create schema {schema}".encode())


class PostgresConnection(psycopg.Connection[TupleRow]):
    """A connection whose every wait for the server has a deadline, after which the connection closes."""

    def wait(self, gen: PQGen[_T], interval: float = _INTERVAL, timeout: float | None = None) -> _T:
        """Waits for the server, at most `timeout` seconds (default: 300)."""
        timeout = _STATEMENT if timeout is None else timeout
        deadline = monotonic() + timeout
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            if monotonic() >= deadline:
                raise self._time_out() from error
            raise

    def fetch(self, statement: bytes, arguments: Sequence[bytes], timeout: float) -> pq.abc.PGresult:
        """Executes a statement that is prepared at its first use: twice as fast as a cursor.

        Args:
            statement: SQL with $1, $2, ...
            arguments: their values in PostgreSQL's binary form.
            timeout: seconds.

        Returns:
            The rows, in the binary form.

        Raises:
            psycopg.Error: the server refused it, or did not answer in time.
        """
        deadline = monotonic() + timeout
        prepared: dict[bytes, bytes] = self.__dict__.setdefault("prepared", {})
        name = prepared.get(statement)
        if name is None:
            name = b"headrace_%d" % len(prepared)
            self.pgconn.send_prepare(name, statement)
            self._receive(deadline)
            prepared[statement] = name
        self.pgconn.send_query_prepared(name, arguments, [_BINARY] * len(arguments), _BINARY)
        return self._receive(deadline)

    def _receive(self, deadline: float) -> pq.abc.PGresult:
        """The result of the statement that was sent."""
        link, poll = self.pgconn, select.poll()
        poll.register(link.socket, select.POLLIN | select.POLLOUT)
        while link.flush():
            self._poll(poll, deadline)
            link.consume_input()
        poll.modify(link.socket, select.POLLIN)
        result = None
        while True:
            while link.is_busy():
                self._poll(poll, deadline)
                link.consume_input()
            part = link.get_result()
            if part is None:
                break
            result = part
        assert result is not None
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise psycopg.errors.error_from_result(result)
        return result

    def _poll(self, poll: select.poll, deadline: float) -> None:
        if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
            raise self._time_out()

    def _time_out(self) -> psycopg.Error:
        self.close()
        return psycopg.errors.ConnectionTimeout("it does not answer")


class PostgresPool(ConnectionPool[PostgresConnection]):
    """Connections to one database, as many as are used at once. Threads may share it.

    In `run`, each statement is its own transaction. Errors of psycopg that say nothing of the server are raised
    as they are.

    Args:
        url: the database's address, without a password: libpq takes that from PGPASSWORD or ~/.pgpass.
    """

    errors = (psycopg.Error,)
    server, password_place = "PostgreSQL", "PGPASSWORD or ~/.pgpass"

    @contextmanager
    def transaction(self) -> Iterator[PostgresConnection]:
        """A transaction; an error rolls it back.

        Raises:
            Unavailable: as for `run`. If the commit fails, it may have taken effect.
            psycopg.Error: any other error.
        """
        connection, _ = self.start(lambda connection: connection.execute("begin"))
        try:
            yield connection
            connection.execute("commit")
        except psycopg.Error as error:
            raise self.describe(error) from error
        finally:
            self.give_back(connection)

    def connect(self) -> PostgresConnection:
        """See ConnectionPool."""
        connection = PostgresConnection.connect(self.url, autocommit=True, **_LINK)
        connection.execute(_SESSION)
        return connection

    def is_timeout(self, error: Exception) -> bool:
        """See ConnectionPool."""
        return isinstance(error, psycopg.errors.ConnectionTimeout)

    def is_reusable(self, connection: PostgresConnection) -> bool:
        """See ConnectionPool. The server rolls back what a closed connection has not committed."""
        return connection.pgconn.transaction_status == pq.TransactionStatus.IDLE

    def describe(self, error: Exception) -> Exception:
        """See ConnectionPool."""
        reason = str(error).partition("\n")[0]
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            remedy = "Let a database administrator grant it to the user that the address names."
            return Unavailable(f"PostgreSQL refuses it: {reason}", where=self.url, remedy=remedy)
        if not isinstance(error, (psycopg.OperationalError, psycopg.InternalError, psycopg.InterfaceError)):
            return error
        if error.sqlstate is None:  # the link to the server failed, not a statement
            return self.lose(reason)
        remedy = "Nothing was changed. Try again when the server can do it."
        return Unavailable(f"PostgreSQL cannot do it now: {reason}", where=self.url, remedy=remedy)
