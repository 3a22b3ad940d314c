from __future__ import annotations

import os
import signal

import pytest

from headrace.kernel import faults


def status_of_child(environment: str | None, reaches: list[str]) -> int:
    """The wait status of a forked child that reaches these points and then exits 7."""
    child = os.fork()
    if child == 0:
        if environment is not None:
            os.environ[faults.VARIABLE] = environment
        for point in reaches:
            faults.reach(point)
        os._exit(7)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize(
    ("environment", "reaches", "killed"),
    [
        (None, ["ingest.after_commit"], False),
        ("ingest.after_commit", ["ingest.before_commit"], False),
        ("ingest.after_commit", ["ingest.before_commit", "ingest.after_commit"], True),
        ("ingest.after_commit:3", ["ingest.after_commit"] * 2, False),
        ("ingest.after_commit:3", ["ingest.after_commit"] * 3, True),
    ],
)
def test_a_process_dies_exactly_where_the_environment_says(
    environment: str | None, reaches: list[str], killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    status = status_of_child(environment, reaches)
    if killed:
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
    else:
        assert os.WEXITSTATUS(status) == 7


def test_a_process_that_is_stopped_goes_on_from_there() -> None:
    child = os.fork()
    if child == 0:
        os.environ[faults.VARIABLE] = "lake.before_commit:2:STOP"
        for _ in range(3):
            faults.reach("lake.before_commit")
        os._exit(7)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    os.kill(child, signal.SIGCONT)
    assert os.WEXITSTATUS(os.waitpid(child, os.WUNTRACED)[1]) == 7
