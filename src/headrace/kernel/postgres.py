"""PostgreSQL databases: a pool of connections with deadlines. Import it only if psycopg is installed.

Nothing here waits without a limit, neither for a server that is away nor for one that does not answer. While it
is away, only one attempt at a time is made to reach it, and every other call fails at once.
"""

from __future__ import annotations

import select
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from headrace.kernel.backoff import Backoff
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import Unavailable

__all__ = ["PostgresConnection", "PostgresPool", "create_schema", "schema_of"]

_T = TypeVar("_T")
_CONNECT = 2  # seconds, for each address of the server; psycopg's least
_ATTEMPT = 10.0  # seconds
_STATEMENT = 300.0  # seconds that a statement may take
_PAUSES = (0.2, 2.0)  # seconds between attempts to reach a server that is away: the first, and the longest
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


def _close_all(connections: list[PostgresConnection]) -> None:
    while connections:
        connections.pop().close()


class PostgresPool:
    """Connections to one database, as many as are used at once. Threads may share it.

    Args:
        url: the database's address, without a password: libpq takes that from PGPASSWORD or ~/.pgpass.

    Attributes:
        url: the same.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._idle: list[PostgresConnection] = []
        weakref.finalize(self, _close_all, self._idle)
        self._lock = threading.Lock()
        self._backoff = Backoff(*_PAUSES)
        self._failure = ""
        self._retry_at = 0.0

    def run(self, work: Callable[[PostgresConnection], _T]) -> _T:
        """Calls `work` with a connection; each statement is its own transaction.

        If the server has closed the connection meanwhile, `work` is called again with a new one.

        Raises:
            Unavailable: the server cannot be reached, does not answer, or cannot do it now.
            psycopg.Error: any other error.
        """
        connection, result = self._start(work)
        self._give_back(connection)
        return result

    @contextmanager
    def transaction(self) -> Iterator[PostgresConnection]:
        """A transaction; an error rolls it back.

        Raises:
            Unavailable: as for `run`. If the commit fails, it may have taken effect.
            psycopg.Error: any other error.
        """
        connection, _ = self._start(lambda connection: connection.execute("begin"))
        try:
            yield connection
            connection.execute("commit")
        except psycopg.Error as error:
            raise self._describe(error) from error
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Closes the connections that are not in use."""
        _close_all(self._idle)

    def _start(self, work: Callable[[PostgresConnection], _T]) -> tuple[PostgresConnection, _T]:
        """A connection, and what `work` returned for it."""
        while True:
            connection, is_new = self._take()
            try:
                return connection, work(connection)
            except psycopg.Error as error:
                is_stale = connection.closed and not isinstance(error, psycopg.errors.ConnectionTimeout)
                self._give_back(connection)
                if is_new or not is_stale:
                    raise self._describe(error) from error
                self.close()  # the server was restarted: the other connections are lost too
            except BaseException:
                self._give_back(connection)
                raise

    def _take(self) -> tuple[PostgresConnection, bool]:
        """A connection, and whether it is new."""
        try:
            return self._idle.pop(), False
        except IndexError:
            return self._connect(), True

    def _give_back(self, connection: PostgresConnection) -> None:
        if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            connection.close()  # the server rolls back what was not committed

    def _connect(self) -> PostgresConnection:
        with self._lock:
            if self._failure and monotonic() < self._retry_at:
                raise self._unavailable(self._failure)
            if self._failure:
                self._retry_at = monotonic() + _ATTEMPT  # until then other threads do not try too
        try:
            connection = PostgresConnection.connect(self.url, autocommit=True, **_LINK)
            connection.execute(_SESSION)
        except psycopg.Error as error:
            raise self._describe(error) from error
        with self._lock:
            self._failure = ""
            self._backoff.reset()
        return connection

    def _describe(self, error: psycopg.Error) -> Exception:
        """The error to raise for an error of psycopg; bugs stay what they are."""
        reason = str(error).partition("\n")[0]
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            remedy = "Let a database administrator grant it to the user that the address names."
            return Unavailable(f"PostgreSQL refuses it: {reason}", where=self.url, remedy=remedy)
        if not isinstance(error, (psycopg.OperationalError, psycopg.InternalError, psycopg.InterfaceError)):
            return error
        if error.sqlstate is None:  # the link to the server failed, not a statement
            with self._lock:
                self._failure = reason
                self._retry_at = monotonic() + self._backoff.next_pause()
            return self._unavailable(reason)
        remedy = "Nothing was changed. Try again when the server can do it."
        return Unavailable(f"PostgreSQL cannot do it now: {reason}", where=self.url, remedy=remedy)

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(
            f"the PostgreSQL server cannot be reached: {reason}",
            where=self.url,
            remedy="Check that it runs, that the address is right, and that PGPASSWORD or ~/.pgpass has the"
            " password if it wants one.",
        )
