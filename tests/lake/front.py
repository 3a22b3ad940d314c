"""A door before a REST catalog that passes requests on, and does to commits what a test asks for.

`cut after` passes a commit on and, when it has been done, cuts the connection before the answer.
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

__all__ = ["Front", "front"]


class Front:
    """The door.

    Attributes:
        url: its address.
        commits: what is done to the next commits, in order: `pass`, `cut before`, `cut after`, a status
            (503: answered at once; `500 after`: passed on, then answered so). Others are passed on.
        away: whether every connection is cut.
        struck: what was done.
    """

    def __init__(self, port: int, target: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.target = target
        self.commits: deque[str] = deque()
        self.away = False
        self.struck: list[str] = []

    def next_commit(self) -> str:
        asked = self.commits.popleft() if self.commits else "pass"
        if asked != "pass":
            self.struck.append(asked)
        return asked


@contextmanager
def front(target: int) -> Iterator[Front]:
    """A door to the catalog at this port of the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            is_commit = self.command == "POST" and "/tables/" in self.path
            asked = "cut before" if door.away else door.next_commit() if is_commit else "pass"
            if asked == "cut before":
                self.cut()
                return
            if asked.isdigit():
                self.answer(
                    int(asked), json.dumps({"error": {"message": "no", "type": "No", "code": int(asked)}})
                )
                return
            connection = http.client.HTTPConnection("127.0.0.1", door.target, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path, body, {**headers, "Accept-Encoding": "identity"})
            response = connection.getresponse()
            said = response.read()
            connection.close()
            if asked == "cut after":
                self.cut()
            elif asked.endswith(" after"):
                status = int(asked.split()[0])
                self.answer(status, json.dumps({"error": {"message": "no", "type": "No", "code": status}}))
            else:
                self.answer(response.status, said.decode())

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
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving = Serving(server)
    door = Front(serving.port, target)
    try:
        yield door
    finally:
        serving.close()
