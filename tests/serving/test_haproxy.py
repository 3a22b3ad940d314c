"""HAProxy's configuration, closed: every listener that Serve opens to all becomes a private socket."""

import subprocess

import pytest

from headrace.serving.deployment import haproxy

pytestmark = pytest.mark.skipif(haproxy.binary() is None, reason="HAProxy has no wheel for this platform")


def rendered(tmp_path):
    """What Serve itself would write, with the least that its template needs."""
    from ray.serve._private.haproxy import HAProxyApi, HAProxyConfig
    from ray.serve.config import HTTPOptions

    options = HTTPOptions(host="127.0.0.1", port=8123)
    config = HAProxyConfig(http_options=options, socket_path=str(tmp_path / "a"), is_head=True)
    HAProxyApi(config, config_file_path=str(tmp_path / "c"))._generate_config_file_internal()
    return (tmp_path / "c").read_text()


def test_no_listener_of_serves_own_configuration_is_open_to_others(tmp_path):
    closed = haproxy.closed(rendered(tmp_path), tmp_path)
    binds = [line.split()[1] for line in closed.splitlines() if line.strip().startswith("bind ")]
    assert sorted(binds) == ["127.0.0.1:8123", f"unix@{tmp_path}/8404", f"unix@{tmp_path}/9101"]
    assert "mode 666" not in closed
    assert closed.count("mode 600") == 3
    (tmp_path / "closed").write_text(closed)
    checked = subprocess.run(
        [haproxy.binary(), "-c", "-f", tmp_path / "closed"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


def test_the_wrapper_closes_the_configuration_and_becomes_haproxy(tmp_path):
    variables = haproxy.environment(tmp_path, 1)
    configuration = tmp_path / "c"
    configuration.write_text(rendered(tmp_path))
    done = subprocess.run(
        [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", configuration], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert configuration.read_text() == haproxy.closed(rendered(tmp_path), tmp_path)
