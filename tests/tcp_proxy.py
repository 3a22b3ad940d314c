"""A proxy between a client and a server that counts round trips, freezes, and cuts connections."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["TcpProxy", "proxy_tcp"]


class TcpProxy:
    """The proxy.

    Attributes:
        port: its port on the loopback address.
        round_trips: how often the client has sent something and then received an answer.
        is_frozen: whether it passes nothing on, as if the server did not answer any more.
        is_away: whether it closes every connection.
        refused: how many connections it has closed at once.
        cut_before: closes the connection that sends these bytes, once, without passing them on.
        cut_after: the same, but passes them on, and closes the connection when the server answers.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.round_trips = self.refused = 0
        self.is_frozen = self.is_away = False
        self.cut_before = self.cut_after = b""
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Closes every connection."""
        self._ends.set()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            pass
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ends.is_set():
            client, _ = self._listener.accept()
            if self.is_away or self._ends.is_set():
                self.refused += 1
                client.close()
                continue
            thread = threading.Thread(target=self._pass_on, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._target))
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_waiting = is_to_cut = False
        with client, server, selectors.DefaultSelector() as selector, suppress(OSError):
            for source in (client, server):
                selector.register(source, selectors.EVENT_READ)
            while not self._ends.is_set() and not self.is_away:
                for key, _ in [] if self.is_frozen else selector.select(0.02):
                    if self.is_frozen or self.is_away:
                        break
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return
                    if key.fileobj is server:
                        if is_to_cut:
                            return
                        self.round_trips += is_waiting
                        is_waiting = False
                        client.sendall(data)
                        continue
                    is_waiting = True
                    if self.cut_before and self.cut_before in data:
                        self.cut_before = b""
                        return
                    if self.cut_after and self.cut_after in data:
                        self.cut_after, is_to_cut = b"", True
                    server.sendall(data)
                if self.is_frozen:
                    self._ends.wait(0.02)


@contextmanager
def proxy_tcp(target: int) -> Iterator[TcpProxy]:
    """Runs a proxy of the server at this port of the loopback address until the block ends."""
    proxy = TcpProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
