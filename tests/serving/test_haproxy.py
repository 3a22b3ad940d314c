"""HAProxy's configuration: every listener that Serve opens on all addresses becomes a private socket, and no
client is waited for without end."""

import inspect
import re
import socket
import subprocess

import pytest
from tests.until import until

from headrace.http.serve import bind
from headrace.serving.deployment.haproxy import find_binary, limit_waits, restrict_listeners, serve_environment

pytestmark = pytest.mark.skipif(find_binary() is None, reason="HAProxy has no wheel for this platform")


def configuration_of_serve(folder):
    """The configuration that Serve itself writes."""
    from ray.serve._private.haproxy import HAProxyApi, HAProxyConfig
    from ray.serve.config import HTTPOptions

    options = HTTPOptions(host="127.0.0.1", port=8123)
    config = HAProxyConfig(http_options=options, socket_path=str(folder / "a"), is_head=True)
    HAProxyApi(config, config_file_path=str(folder / "c"))._generate_config_file_internal()
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
    assert configuration.read_text() == limit_waits(
        restrict_listeners(configuration_of_serve(tmp_path), tmp_path)
    )


def connect(port):
    """A connection to this port of loopback; None if no process listens there."""
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=30)
    except ConnectionRefusedError:
        return None


def test_a_client_that_sends_half_a_request_is_disconnected(tmp_path):
    configuration = limit_waits(configuration_of_serve(tmp_path), head_seconds=1)
    for setting in ("timeout http-request 1s", "timeout client 60s", "timeout http-keep-alive 30s"):
        assert len(re.findall(rf"^\s*{setting}\s*$", configuration, re.MULTILINE)) == 1
    with bind("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    defaults = configuration[configuration.index("defaults") : configuration.index("frontend")]
    frontend = f"frontend f\n    bind 127.0.0.1:{port}\n    http-request return status 200\n"
    (tmp_path / "c").write_text(defaults + frontend)
    (tmp_path / "500.http").write_text("HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n")
    haproxy = subprocess.Popen([find_binary(), "-f", tmp_path / "c"], stderr=subprocess.DEVNULL)
    try:
        with until(lambda: connect(port)) as client:
            client.sendall(b"POST /predict/purchase HTTP/1.1\r\nHost: x")
            assert client.recv(100).startswith(b"HTTP/1.1 408")
    finally:
        haproxy.terminate()
        haproxy.wait()


def test_serve_reads_every_variable(tmp_path):
    from ray.serve._private import constants

    source = inspect.getsource(constants)
    assert [name for name in serve_environment(tmp_path, 1) if f'"{name}"' not in source] == []
