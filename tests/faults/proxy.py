"""A TCP proxy before a catalog, that cuts the connection at a commit: before it went through, or after."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

__all__ = ["Proxy", "proxied"]

When = Literal["before", "after"]


class Proxy:
    """Passes bytes on.

    Attributes:
        port: where it listens on the loopback address.
        cut: when → how many commits it cut off.
    """

    def __init__(self, target: int, path: str) -> None:
        self.cut: Counter[str] = Counter()
        self._target = target
        self._commit = f"{path} HTTP".encode()
        self._armed: When | None = None
        self._lock = threading.Lock()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]

    def arm(self, when: When) -> None:
        """Cuts the next commit: `before` it reaches the catalog, or `after`, before its answer is passed on."""
        with self._lock:
            self._armed = when

    def serve(self) -> None:
        """Until `close`."""
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def _pass(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            doomed = threading.Event()
            back = threading.Thread(target=self._answer, args=(server, client, doomed), daemon=True)
            back.start()
            while sent := client.recv(1 << 16):
                when = self._struck(sent)
                if when == "before":
                    break
                if when == "after":
                    doomed.set()
                server.sendall(sent)
            if not doomed.is_set():
                for one in (server, client):
                    one.shutdown(socket.SHUT_RDWR)
            back.join()

    def _answer(self, server: socket.socket, client: socket.socket, doomed: threading.Event) -> None:
        with suppress(OSError):
            while answer := server.recv(1 << 16):
                if doomed.is_set():  # it has been done, and nobody is told
                    self.cut["after"] += 1
                    break
                client.sendall(answer)
            for one in (client, server):
                one.shutdown(socket.SHUT_RDWR)

    def _struck(self, sent: bytes) -> When | None:
        if not sent.startswith(b"POST ") or self._commit not in sent.split(b"\r\n", 1)[0]:
            return None
        with self._lock:
            when, self._armed = self._armed, None
            if when == "before":
                self.cut["before"] += 1
        return when


@contextmanager
def proxied(target: int, path: str) -> Iterator[Proxy]:
    """A proxy to a port of the loopback address; a commit is a POST to `path`."""
    proxy = Proxy(target, path)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(10)
