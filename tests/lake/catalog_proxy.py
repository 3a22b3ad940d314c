"""A proxy of a REST catalog that passes requests on, and makes chosen commits fail.

`cut after` passes a commit on and, once the catalog has answered, cuts the connection to the client.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.servers import Serving

__all__ = ["CatalogProxy", "proxy_catalog"]


class CatalogProxy:
    """The proxy.

    Attributes:
        url: its address.
        commits: what happens to the next commits, in order: `pass`, `cut before`, `cut after`, a status
            (503: answered at once; `500 after`: passed on, then answered so). Others are passed on.
        away: whether every connection is cut.
        actions: what happened to commits that were not passed on.
    """

    def __init__(self, port: int, target: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.target = target
        self.commits: deque[str] = deque()
        self.away = False
        self.actions: list[str] = []

    def next_commit(self) -> str:
        action = self.commits.popleft() if self.commits else "pass"
        if action != "pass":
            self.actions.append(action)
        return action


@contextmanager
def proxy_catalog(target: int) -> Iterator[CatalogProxy]:
    """Runs a proxy of the catalog at this port of the loopback address until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            is_commit = self.command == "POST" and "/tables/" in self.path
            action = "cut before" if proxy.away else proxy.next_commit() if is_commit else "pass"
            if action == "cut before":
                self.cut()
                return
            if action.isdigit():
                self.answer(
                    int(action), json.dumps({"error": {"message": "no", "type": "No", "code": int(action)}})
                )
                return
            connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path, body, {**headers, "Accept-Encoding": "identity"})
            response = connection.getresponse()
            content = response.read()
            connection.close()
            if action == "cut after":
                self.cut()
            elif action.endswith(" after"):
                status = int(action.split()[0])
                self.answer(status, json.dumps({"error": {"message": "no", "type": "No", "code": status}}))
            else:
                self.answer(response.status, content.decode())

        do_GET = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text.encode())

        def cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            """Writes no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving = Serving(server)
    proxy = CatalogProxy(serving.port, target)
    try:
        yield proxy
    finally:
        serving.close()
