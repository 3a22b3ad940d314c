"""HAProxy's configuration: every listener that Serve opens on all addresses becomes a private socket, and no
client is waited for without end."""

import asyncio
import inspect
import re
import socket
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from tests.until import until

from headrace.kernel.ports import find_free_port
from headrace.serving.deployment.haproxy import (
    answer_unavailable,
    find_binary,
    limit_waits,
    restrict_listeners,
    serve_environment,
)
from headrace.serving.deployment.processes import answer_unavailable as answer_on_processes

pytestmark = pytest.mark.skipif(find_binary() is None, reason="HAProxy has no wheel for this platform")


def configuration_of_serve(folder):
    """The configuration that Serve itself writes, for an application with one replica."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    options = HTTPOptions(host="127.0.0.1", port=8123)
    config = HAProxyConfig(http_options=options, socket_path=str(folder / "a"), is_head=True)
    replica, own_proxy = (ServerConfig(name, "127.0.0.1", port) for name, port in (("r", 8124), ("p", 8125)))
    backend = BackendConfig("endpoint", "/", servers=[replica], fallback_server=own_proxy, app_name="endpoint")
    api = HAProxyApi(config, backend_configs={"endpoint": backend}, config_file_path=str(folder / "c"))
    api._generate_config_file_internal()
    return (folder / "c").read_text()


def test_no_listener_is_open_to_others(tmp_path):
    configuration = restrict_listeners(configuration_of_serve(tmp_path), tmp_path)
    binds = [line.split()[1] for line in configuration.splitlines() if line.strip().startswith("bind ")]
    assert sorted(binds) == ["127.0.0.1:8123", f"unix@{tmp_path}/8404", f"unix@{tmp_path}/9101"]
    assert "mode 666" not in configuration
    assert configuration.count("mode 600") == 3
    (tmp_path / "restricted").write_text(configuration)
    check = subprocess.run([find_binary(), "-c", "-f", tmp_path / "restricted"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


def test_the_wrapper_restricts_the_configuration_and_becomes_haproxy(tmp_path):
    variables = serve_environment(tmp_path, 1)
    configuration = tmp_path / "c"
    configuration.write_text(configuration_of_serve(tmp_path))
    check = subprocess.run(
        [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", configuration], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr
    written = configuration.read_text()
    restricted = restrict_listeners(configuration_of_serve(tmp_path), tmp_path)
    assert written == answer_unavailable(limit_waits(restricted))


@contextmanager
def run_haproxy(configuration):
    (configuration.parent / "500.http").write_text("HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n")
    haproxy = subprocess.Popen([find_binary(), "-f", configuration], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        haproxy.terminate()
        haproxy.wait()


def connect(port):
    """A connection to this port of loopback; None if no process listens there."""
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=30)
    except ConnectionRefusedError:
        return None


@pytest.mark.parametrize("route", ["http-request return status 404 lf-string x", "default_backend dead"])
def test_without_a_replica_it_answers_as_replicas_on_processes_do(tmp_path, route):
    configuration = configuration_of_serve(tmp_path)
    defaults = configuration[configuration.index("defaults") : configuration.index("frontend")]
    ports = [find_free_port() for _ in range(2)]
    (tmp_path / "c").write_text(
        answer_unavailable(
            f"{defaults}frontend f\n    bind 127.0.0.1:{ports[0]}\n    {route}\n"
            f"backend dead\n    server s 127.0.0.1:{ports[1]}\n"
        )
    )
    with run_haproxy(tmp_path / "c"):
        until(lambda: connect(ports[0])).close()
        request = urllib.request.Request(f"http://127.0.0.1:{ports[0]}/predict/purchase", b"{}")
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=60)
    answers = []

    async def send(message):
        answers.append(message)

    asyncio.run(answer_on_processes({"type": "http"}, None, send))
    expected = dict(answers[0]["headers"])
    assert raised.value.code == answers[0]["status"] == 503
    assert raised.value.read() == answers[1]["body"]
    for name in ("content-type", "retry-after"):
        assert raised.value.headers[name].encode() == expected[name.encode()]


def test_serve_configures_what_is_replaced(tmp_path):
    written = configuration_of_serve(tmp_path)
    configuration = answer_unavailable(written)
    assert [configuration.count(server) for server in ("127.0.0.1:8124", "127.0.0.1:8125")] == [1, 0]
    assert written.count("127.0.0.1:8125") == 1
    assert configuration.count("http-error status 50") == 3
    assert "errorfile" not in configuration
    assert "404 " not in configuration
    assert "http-request return status 503 content-type application/json" in configuration


def test_a_client_that_sends_half_a_request_is_disconnected(tmp_path):
    configuration = limit_waits(configuration_of_serve(tmp_path), head_seconds=1)
    for setting in ("timeout http-request 1s", "timeout client 60s", "timeout http-keep-alive 30s"):
        assert len(re.findall(rf"^\s*{setting}\s*$", configuration, re.MULTILINE)) == 1
    port = find_free_port()
    defaults = configuration[configuration.index("defaults") : configuration.index("frontend")]
    frontend = f"frontend f\n    bind 127.0.0.1:{port}\n    http-request return status 200\n"
    (tmp_path / "c").write_text(defaults + frontend)
    with run_haproxy(tmp_path / "c"), until(lambda: connect(port)) as client:
        client.sendall(b"POST /predict/purchase HTTP/1.1\r\nHost: x")
        assert client.recv(100).startswith(b"HTTP/1.1 408")


def test_serve_reads_every_variable(tmp_path):
    from ray.serve._private import constants

    source = inspect.getsource(constants)
    assert [name for name in serve_environment(tmp_path, 1) if f'"{name}"' not in source] == []
