"""The endpoint on a Ray that somebody else runs: another one on this machine, with its own address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.supervised import RAY_WARNINGS, SupervisedDeployment
from tests.serving.small_project import (
    fit_booster,
    make_project,
    plan_of,
    put_bundle,
    put_features,
    put_release,
)
from tests.until import until

from headrace.cluster.folder import runtime_folder
from headrace.config.settings import load_settings
from headrace.kernel.errors import Unavailable
from headrace.kernel.ports import find_free_port
from headrace.serving.deployment.haproxy import find_binary
from headrace.serving.release import Arm

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are listed from /proc"),
    pytest.mark.filterwarnings(RAY_WARNINGS),
]


def has_started(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def find_commands(part: str) -> list[str]:
    """The commands of this machine's processes that have this part."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # the process has ended
            continue
    return [command for command in commands if part in command]


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray that `ray start` runs, with a token as its clients must have."""
    with tempfile.TemporaryDirectory(prefix="hr", dir="/tmp") as name:
        folder, port = Path(name), find_free_port()
        (folder / "token").write_text("5" * 64)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        command += [f"--port={port}", f"--temp-dir={folder}/ray"]
        command += ["--num-cpus=2", "--include-dashboard=false", f"--object-store-memory={100 << 20}"]
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        with (folder / "log").open("wb") as log:
            ray = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(lambda: has_started(port), (folder / "log").read_text)
            yield f"127.0.0.1:{port}"
        finally:
            ray.terminate()
            ray.wait(180)


def test_the_profile_submits_the_endpoint_to_another_ray(address: str, tmp_path: Path) -> None:
    file = make_project(tmp_path / "project").root / "headrace.toml"
    profile = f'[profile.local]\nray = "{address}"\nreplicas = 2\n'
    file.write_text(file.read_text().replace("[profile.local]\n", profile))
    settings, boosters = load_settings(file.parent), {1: fit_booster(1), 2: fit_booster(-1)}
    for version in (1, 2):
        put_bundle(settings, boosters, version, plan_of())
    put_features(settings, plan_of(), {7: (9.5, 190)})
    put_release(settings, Arm(1))
    assert settings.deployment == "ray_serve"
    running = SupervisedDeployment(settings)
    try:
        assert running.predict()["version"] == 1
        balancers = find_commands(str(runtime_folder(settings)))
        assert any("haproxy" in command for command in balancers) == (find_binary() is not None)
        assert not settings.place("ray.json").exists(), "no Ray was started"
        other = tmp_path / "other"
        other.mkdir()
        (other / "headrace.toml").write_text(f'[project]\nname = "other"\n[profile.local]\nray = "{address}"\n')
        with pytest.raises(Unavailable, match="Ray Serve runs predict-small-local on this cluster"):
            SupervisedDeployment(load_settings(other))  # it ended what Serve ran, and took the port
        assert running.predict()["version"] == 1
        put_release(settings, Arm(2))
        until(lambda: {running.predict()["version"] for _ in range(8)} == {2})
    finally:
        running.stop()
    until(lambda: not has_started(running.port), "the port is open after the end")
    assert has_started(int(address.rpartition(":")[2])), "the other Ray goes on"
    until(lambda: not any("haproxy" in command for command in find_commands(str(runtime_folder(settings)))))
