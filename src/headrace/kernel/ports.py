"""Ports that are free, for servers that are told their port before they listen."""

from __future__ import annotations

import random
import socket

__all__ = ["find_free_port"]

# Below the ports that the system gives to outgoing connections and to whoever asks for any port (from 32768 on
# Linux), and above those of Ray's workers (10002 to 19999). A server that starts may need seconds until it
# listens; meanwhile the many processes that start with it would take a port among those.
_PORTS = range(20_000, 32_768)
_ATTEMPTS = 100
_given: set[int] = set()  # whoever asked for one may not listen yet


def find_free_port(host: str = "127.0.0.1") -> int:
    """A port of the host on which no process listens at this moment, another one at each call.

    Raises:
        OSError: this machine does not have the address.
    """
    family, kind, protocol, _, _ = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    others = [port for port in _PORTS if port not in _given]
    for port in (*random.SystemRandom().sample(others, min(len(others), _ATTEMPTS)), 0):
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                if port:
                    continue
                raise
            _given.add(port)
            return int(probe.getsockname()[1])
    raise AssertionError("the last attempt returns or raises")
