"""ConnectionPool: connections to one server, which is never waited for twice.

While the server is away, only one attempt at a time is made to reach it, and every other call fails at once.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import ClassVar, Generic, Protocol, TypeVar

from headrace.kernel.backoff import Backoff
from headrace.kernel.errors import Unavailable

__all__ = ["ConnectionPool", "PooledConnection"]

_ATTEMPT = 10.0  # seconds after which another thread may try to reach the server too
_PAUSES = (0.2, 2.0)  # seconds between attempts to reach a server that is away: the first, and the longest


class PooledConnection(Protocol):
    """What a pool needs of a connection."""

    @property
    def closed(self) -> bool:
        """Whether it can be used no more."""

    def close(self) -> None:
        """Closes it."""


_C = TypeVar("_C", bound=PooledConnection)
_T = TypeVar("_T")


def _close_all(connections: list[_C]) -> None:
    while connections:
        connections.pop().close()


class ConnectionPool(ABC, Generic[_C]):
    """Connections to one server, as many as are used at once. Threads may share it.

    Args:
        url: the server's address, without a password.

    Attributes:
        url: the same.
        errors: the client's errors.
        server: what the server is called.
        password_place: where the client takes the password from.
    """

    errors: ClassVar[tuple[type[Exception], ...]]
    server: ClassVar[str]
    password_place: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url
        self._idle: list[_C] = []
        weakref.finalize(self, _close_all, self._idle)
        self._lock = threading.Lock()
        self._backoff = Backoff(*_PAUSES)
        self._failure = ""
        self._retry_at = 0.0

    @abstractmethod
    def connect(self) -> _C:
        """A new connection. Raises one of `errors`."""

    @abstractmethod
    def is_timeout(self, error: Exception) -> bool:
        """Whether the server did not answer in time."""

    @abstractmethod
    def is_reusable(self, connection: _C) -> bool:
        """Whether the connection is open and outside of a transaction."""

    @abstractmethod
    def describe(self, error: Exception) -> Exception:
        """The error to raise for an error of the client; bugs stay what they are."""

    def run(self, work: Callable[[_C], _T]) -> _T:
        """Calls `work` with a connection.

        If the server has closed the connection meanwhile, `work` is called again with a new one.

        Raises:
            Unavailable: the server cannot be reached, does not answer, or cannot do it now.
        """
        connection, result = self.start(work)
        self.give_back(connection)
        return result

    def start(self, work: Callable[[_C], _T]) -> tuple[_C, _T]:
        """The same, but also returns the connection, which must be given back."""
        while True:
            connection, is_new = self._take()
            try:
                result = work(connection)
            except self.errors as error:
                is_stale = connection.closed and not self.is_timeout(error)
                self.give_back(connection)
                if is_new or not is_stale:
                    raise self.describe(error) from error
                self.close()  # the server was restarted: the other connections are lost too
                continue
            except BaseException:
                self.give_back(connection)
                raise
            if self._failure:
                self._note_success()
            return connection, result

    def give_back(self, connection: _C) -> None:
        """Takes back a connection; one that cannot be used again is closed."""
        if self.is_reusable(connection):
            self._idle.append(connection)
        else:
            connection.close()

    def lose(self, reason: str) -> Unavailable:
        """Notes that the link to the server failed, and returns the error to raise."""
        with self._lock:
            self._failure = reason
            self._retry_at = monotonic() + self._backoff.next_pause()
        return self._unreachable(reason)

    def close(self) -> None:
        """Closes the connections that are not in use."""
        _close_all(self._idle)

    def _take(self) -> tuple[_C, bool]:
        """A connection, and whether it is new."""
        try:
            return self._idle.pop(), False
        except IndexError:
            return self._connect(), True

    def _connect(self) -> _C:
        with self._lock:
            if self._failure and monotonic() < self._retry_at:
                raise self._unreachable(self._failure)
            if self._failure:
                self._retry_at = monotonic() + _ATTEMPT  # until then other threads do not try too
        try:
            connection = self.connect()
        except self.errors as error:
            raise self.describe(error) from error
        self._note_success()
        return connection

    def _note_success(self) -> None:
        with self._lock:
            self._failure = ""
            self._backoff.reset()

    def _unreachable(self, reason: str) -> Unavailable:
        return Unavailable(
            f"the {self.server} server cannot be reached: {reason}",
            where=self.url,
            remedy=f"Check that it runs, that the address is right, and that {self.password_place} has the"
            " password if it wants one.",
        )
