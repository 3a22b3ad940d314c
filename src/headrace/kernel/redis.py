"""Redis servers: a pool of connections with deadlines. Import it only if redis is installed.

Connections are redis-py's, which knows TLS, users and sockets. Commands go through them in pipelines packed by
hiredis: a lookup takes a third of the time of redis-py's clients.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from hiredis import pack_command
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.pool import ConnectionPool

__all__ = ["Command", "RedisConnection", "RedisPool", "error_of"]

Command = Sequence[bytes | str | int]
"""A command and its arguments."""

_CONNECT = 2.0  # seconds
_PASSWORD = "REDISCLI_AUTH"  # noqa: S105  (the variable of redis-cli)
_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": _CONNECT,
    "socket_keepalive": True,
    "retry": Retry(NoBackoff(), 0),
    "protocol": 2,
}


def error_of(replies: Iterable[Any]) -> exceptions.ResponseError | None:
    """The first error among replies."""
    return next((reply for reply in replies if isinstance(reply, exceptions.ResponseError)), None)


class RedisConnection:
    """A connection. After an error of the link it is closed, and never opened again.

    Attributes:
        closed: whether it is closed.
        number: the server's number of the connection; 0 if this user may not ask for it.
        is_watching: whether keys are watched, so that another user would lose a transaction.
    """

    def __init__(self, link: Any) -> None:
        self._link = link
        self.closed = False
        self.number = 0
        self.is_watching = False

    def execute(self, *commands: Command) -> list[Any]:
        """Sends the commands at once and returns their replies.

        Raises:
            redis.exceptions.ResponseError: the server refused a command; the others were executed.
            redis.exceptions.RedisError: the link failed, or the server did not answer in time.
        """
        return self.execute_packed([pack_command(tuple(command)) for command in commands], len(commands))

    def execute_packed(self, packed: Sequence[bytes], count: int) -> list[Any]:
        """The same for `count` commands that hiredis has packed."""
        link, replies = self._link, []
        try:
            link.send_packed_command([b"".join(packed)], check_health=False)
            for _ in range(count):
                try:
                    replies.append(link.read_response(disable_decoding=True, disconnect_on_error=False))
                except exceptions.ResponseError as error:
                    replies.append(error)
        except BaseException:
            self.close()  # what follows on this link would be replies to these commands
            raise
        refusal = error_of(replies)
        if refusal is not None:
            raise refusal
        return replies

    def close(self) -> None:
        """Closes it."""
        self.closed = True
        self._link.disconnect()


class RedisPool(ConnectionPool[RedisConnection]):
    """Connections to one Redis server. Threads may share it.

    Args:
        url: the server's address, without a password: that is taken from REDISCLI_AUTH.
        timeout: seconds to wait for a reply.

    Raises:
        ProjectError: the address is not valid.
    """

    errors = (exceptions.RedisError,)
    server, password_place = "Redis", _PASSWORD

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(url)
        try:
            options = parse_url(url)
            self._kind = options.pop("connection_class", redis.Connection)
            self._options = {**options, **_OPTIONS, "socket_timeout": timeout}
            if self._kind is redis.UnixDomainSocketConnection:
                del self._options["socket_keepalive"]
            self._kind(**self._options)
        except (TypeError, ValueError) as error:
            raise ProjectError(
                f"the address of the Redis server is not valid: {error}",
                where=url,
                remedy="Use redis://host:6379/0, rediss://host:6379/0 or unix:///path/of/a/socket?db=0.",
            ) from error

    def connect(self) -> RedisConnection:
        """See ConnectionPool. A server that may evict keys is refused: a value would be missing in silence."""
        link = self._kind(**self._options, password=os.environ.get(_PASSWORD))
        link.connect()
        connection = RedisConnection(link)
        try:
            (connection.number,) = connection.execute(("CLIENT", "ID"))
            (memory,) = connection.execute(("INFO", "memory"))
        except exceptions.NoPermissionError:
            return connection
        figures = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
        policy = figures.get("maxmemory_policy", "noeviction")
        if policy.startswith("allkeys") and figures.get("maxmemory") != "0":
            connection.close()
            raise Unavailable(
                f"the Redis server may remove feature values when its memory is full ({policy})",
                where=self.url,
                remedy="Set maxmemory-policy to noeviction on that server, or use another one.",
            )
        return connection

    def is_timeout(self, error: Exception) -> bool:
        """See ConnectionPool."""
        return isinstance(error, exceptions.TimeoutError)

    def is_reusable(self, connection: RedisConnection) -> bool:
        """See ConnectionPool."""
        return not connection.closed and not connection.is_watching

    def describe(self, error: Exception) -> Exception:
        """See ConnectionPool."""
        if isinstance(error, exceptions.TimeoutError):
            return self.lose("it does not answer")
        if isinstance(error, exceptions.AuthenticationError):
            return self.lose(f"it refuses the user or the password: {error}")
        if not isinstance(error, exceptions.ResponseError):
            return self.lose(str(error))
        remedy = "Nothing was changed. Try again when the server can do it, with a user who may."
        return Unavailable(f"Redis refuses it: {error}", where=self.url, remedy=remedy)
