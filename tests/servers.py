"""Servers of tests: one that serves from a thread, and an HTTP endpoint that keeps its requests."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import NamedTuple


class Serving:
    """A server that serves from its own thread until it is closed.

    Attributes:
        port: its port on the loopback address.
    """

    def __init__(self, server: TCPServer) -> None:
        self.port: int = server.server_address[1]
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Post(NamedTuple):
    """A request, and the status of its answer."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int


class Endpoint(Serving):
    """A web server that keeps what is posted to it. It answers with the statuses in `answers`, then `usual`.

    Attributes:
        text: what each of its answers says.
    """

    def __init__(self, usual: int = 200) -> None:
        self.got: list[Post] = []
        self.answers: list[int] = []
        self.text = b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.answers.pop(0) if outer.answers else usual
                outer.got.append(Post(self.path, dict(self.headers), body, status))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(outer.text)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a client need not read all of it
                    self.wfile.write(outer.text)

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        self.url = f"http://127.0.0.1:{self.port}"
