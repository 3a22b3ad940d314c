"""When an endpoint on Ray Serve counts as started: once its balancer closes no connection any more."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headrace.kernel.ports import find_free_port
from headrace.serving.deployment import ray_driver

RELOADS = 5


class ReloadedBalancer(BaseHTTPRequestHandler):
    """Answers as a balancer that is reloaded RELOADS times: each closes the connections, after an answer that
    says so."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        type(self).connections += 1
        self.is_reloaded = type(self).connections <= RELOADS
        super().setup()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        if self.is_reloaded:
            self.send_header("Connection", "close")  # and it is closed
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


def test_an_endpoint_is_ready_once_a_connection_to_it_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the first connections of a client are closed by the balancer's last reload."""
    monkeypatch.setattr(ray_driver, "_SETTLED", 0.15)
    with ThreadingHTTPServer(("127.0.0.1", 0), ReloadedBalancer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        ray_driver.await_answer("127.0.0.1", server.server_port, threading.Event())
        server.shutdown()
        thread.join()
    assert ReloadedBalancer.connections == RELOADS + 1


def test_a_driver_that_is_stopped_does_not_wait_for_an_answer() -> None:
    stop = threading.Event()
    stop.set()
    ray_driver.await_answer("127.0.0.1", find_free_port(), stop)
