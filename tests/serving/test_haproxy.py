"""HAProxy's configuration: every listener that Serve opens on all addresses becomes a private socket."""

import inspect
import subprocess

import pytest

from headrace.serving.deployment.haproxy import find_binary, restrict_listeners, serve_environment

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
    assert configuration.read_text() == restrict_listeners(configuration_of_serve(tmp_path), tmp_path)


def test_serve_reads_every_variable(tmp_path):
    from ray.serve._private import constants

    source = inspect.getsource(constants)
    assert [name for name in serve_environment(tmp_path, 1) if f'"{name}"' not in source] == []
