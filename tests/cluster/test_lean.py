"""A lean Ray: which processes it starts, and how it starts."""

import os
import subprocess
import sys

import pytest

from headrace.cluster import connection as cluster
from headrace.cluster import lean_agent
from headrace.config.settings import load_settings
from headrace.kernel.errors import Unavailable


def descendants(pid):
    """The command lines of the process' children, and of theirs."""
    rows = subprocess.run(["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    table = [line.split(None, 2) for line in rows.splitlines()[1:]]
    commands, todo = [], [str(pid)]
    while todo:
        parent = todo.pop()
        children = [row for row in table if row[1] == parent]
        commands += [row[2] for row in children]
        todo += [row[0] for row in children]
    return commands


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "headrace.toml").write_text('[project]\nname = "lean"\n[profile.local]\n')
    return load_settings(tmp_path)


def test_a_local_ray_is_lean_and_its_workers_have_the_given_variables(settings):
    with cluster.connect(settings, environment={"HEADRACE_TEST_VARIABLE": "yes"}):
        import ray

        @ray.remote(num_cpus=0)
        def read_variable():
            return os.environ.get("HEADRACE_TEST_VARIABLE")

        assert ray.get(read_variable.remote()) == "yes"
        assert cluster.worker_variables() == {"HEADRACE_TEST_VARIABLE": "yes"}
        assert "HEADRACE_TEST_VARIABLE" not in os.environ
        running = "\n".join(descendants(os.getpid()))
    assert "lean_agent.py" in running
    assert not any(name in running for name in ("dashboard.py", "log_monitor", "monitor.py", "DashboardAgent"))
    assert not cluster.worker_variables()


def test_the_agent_names_no_ports_and_ends_with_the_raylet(tmp_path):
    agent = subprocess.run(
        [sys.executable, "-I", "-S", lean_agent.__file__, tmp_path, "ab"], input=b"", timeout=300, check=True
    )
    assert agent.returncode == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{name}_ab": "-1"
        for name in ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port")
    }


def test_a_start_that_times_out_is_repeated_and_then_unavailable(settings, monkeypatch):
    import ray

    tries = []

    def init(**_):
        tries.append(1)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Unavailable, match="timed out") as raised, cluster.connect(settings):
        pass
    assert len(tries) == 2
    assert "busy" in raised.value.remedy
