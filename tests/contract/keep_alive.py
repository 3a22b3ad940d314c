"""Clients that send single requests, one after the other, over connections that they keep open."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.contract.supervised import INSTANCE

__all__ = ["KeepAliveClients", "run_clients"]

_BODY = json.dumps(INSTANCE).encode()
_REQUEST = (
    b"POST /predict/purchase HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
_PAUSE = 0.01  # seconds after a refused connection or an answer 503
_TIMEOUT = 60.0  # seconds for an answer


class KeepAliveClients:
    """What the clients sent and got.

    Args:
        port: the server's, on loopback.
        pause: seconds between an answer and the next request.

    Attributes:
        requests: how many were sent.
        statuses: HTTP status → answers.
        ids: those of the predictions that were answered with 200.
        refused: how many connections were refused.
        cut: of each request that got no whole answer, how many were answered before on its connection, what
            had arrived of its answer, and the error.
    """

    def __init__(self, port: int, pause: float) -> None:
        self._port, self._pause = port, pause
        self._stop = threading.Event()
        self.requests, self.refused = 0, 0
        self.statuses: Counter[int] = Counter()
        self.ids: list[str] = []
        self.cut: list[tuple[int, bytes, str]] = []

    def stop(self) -> None:
        """Lets each client end with its next answer."""
        self._stop.set()

    async def send_all(self, connections: int) -> None:
        """Sends over so many connections until `stop`."""
        await asyncio.gather(*(self._send() for _ in range(connections)))

    async def _send(self) -> None:
        while not self._stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionRefusedError:
                self.refused += 1
                await asyncio.sleep(_PAUSE)
                continue
            except OSError as error:  # the server closed it before it was accepted
                self.cut.append((0, b"", repr(error)))
                continue
            answered, is_open = 0, True
            while is_open and not self._stop.is_set():
                received = b""
                try:
                    self.requests += 1
                    writer.write(_REQUEST)
                    async with asyncio.timeout(_TIMEOUT):
                        received = await reader.readuntil(b"\r\n\r\n")
                        is_open = self._count(received, await reader.readexactly(_length_of(received)))
                    answered += 1
                    is_unavailable = received.startswith(b"HTTP/1.1 503 ")
                    await asyncio.sleep(max(self._pause, _PAUSE) if is_unavailable else self._pause)
                except (OSError, EOFError, TimeoutError) as error:
                    self.cut.append((answered, received, repr(error)))
                    is_open = False
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _count(self, head: bytes, body: bytes) -> bool:
        """Counts an answer. Returns whether the server keeps the connection open."""
        status = int(head.split(maxsplit=2)[1])
        self.statuses[status] += 1
        if status == 200:
            self.ids.append(json.loads(body)["id"])
        return b"connection: close" not in head.lower()


def _length_of(head: bytes) -> int:
    (line,) = (line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    return int(line.partition(b":")[2])


@contextmanager
def run_clients(port: int, connections: int, pause: float = 0.0) -> Iterator[KeepAliveClients]:
    """Clients that send over so many connections while the block runs. After it, each has its last answer."""
    clients = KeepAliveClients(port, pause)
    thread = threading.Thread(target=lambda: asyncio.run(clients.send_all(connections)))
    thread.start()
    try:
        yield clients
    finally:
        clients.stop()
        thread.join()
