"""A port for a server that is told its port before it listens."""

import socket

from headrace.kernel.ports import find_free_port


def test_a_port_is_free_and_none_that_the_system_gives_to_others():
    ports = [find_free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    assert max(ports) < 32_768  # Linux gives ports from here on, unless it is told otherwise
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_that_is_in_use_is_passed_over(monkeypatch):
    first, second = find_free_port(), find_free_port()
    monkeypatch.setattr("headrace.kernel.ports._PORTS", (first, second))
    monkeypatch.setattr("headrace.kernel.ports._given", set())
    with socket.socket() as used:
        used.bind(("127.0.0.1", first))
        assert find_free_port() == second
