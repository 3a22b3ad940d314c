"""Children that hang at their start, or are suspended when their parent dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.until import until

from headrace.kernel.children import Child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")

PARENT = """
import os, sys
from pathlib import Path
from headrace.kernel.children import Child
child = Child("work", [sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]), os.environ)
while not child.ready:
    pass
print(child.process.pid, flush=True)
sys.stdin.read()
"""
WORK = """
import threading
from headrace.kernel.child import end_with_parent, report_ready
end_with_parent()
report_ready()
threading.Event().wait()
"""


def await_report(child: Child) -> list[str]:
    """Supervises the child until something is reported, and returns that."""
    messages = list[str]()

    def has_reported() -> bool:
        child.supervise(messages.append)
        return bool(messages)

    until(has_reported)
    return messages


def test_a_child_that_does_not_get_ready_is_killed_and_started_again(tmp_path: Path) -> None:
    log = tmp_path / "work" / "log"
    child = Child("work", [sys.executable, "-c", "input()"], log, os.environ, longest_start=0.2)
    first, messages = child.process.pid, list[str]()

    def is_restarted() -> bool:
        child.supervise(messages.append)
        return child.process.pid != first

    try:
        until(is_restarted)
    finally:
        child.process.kill()
        child.end(0.0)
    assert messages[0] == "work hangs: it was not ready within 0.2 s, and is killed"


@pytest.mark.parametrize(
    ("end", "reason"), [("os.kill(os.getpid(), 9)", "it was killed"), ("sys.exit('no room')", "no room")]
)
def test_a_killed_child_is_not_said_to_have_ended_for_what_it_wrote_last(
    tmp_path: Path, end: str, reason: str
) -> None:
    work = f"import os, sys; print('ingested 7 events', file=sys.stderr, flush=True); {end}"
    log = tmp_path / "work" / "log"
    child = Child("work", [sys.executable, "-c", work], log, os.environ)
    try:
        messages = await_report(child)
    finally:
        child.end(0.0)
    code = "signal 9" if "kill" in end else "exit 1"
    assert messages == [f"work ended ({code}): {reason} ({log}); it is started again"]


def test_what_a_child_reports_is_reported_with_its_name(tmp_path: Path) -> None:
    work = WORK.replace("report_ready()\n", "report_ready()\nreport_event('a replica ended')\n", 1).replace(
        "import end_with_parent", "import end_with_parent, report_event"
    )
    child = Child("work", [sys.executable, "-c", work], tmp_path / "work" / "log", os.environ)
    try:
        messages = await_report(child)
    finally:
        child.process.kill()
        child.end(0.0)
    assert messages == ["work: a replica ended"]


def test_an_event_of_several_lines_is_one_line_and_does_not_count_as_ready(tmp_path: Path) -> None:
    work = """
from headrace.kernel.child import report_event, report_ready
report_event("first\\nready\\n.")
input()
report_ready()
input()
"""
    child = Child("work", [sys.executable, "-c", work], tmp_path / "work" / "log", os.environ)
    try:
        messages = await_report(child)
        assert messages == ["work: first ready ."]
        assert not child.ready
        assert child.process.stdin is not None
        child.process.stdin.write(b"\n")
        child.process.stdin.flush()
        until(lambda: child.ready)
    finally:
        child.process.kill()
        child.end(0.0)


@pytest.mark.parametrize("ends", ["by itself", "when it is told to"])
def test_what_a_child_started_ends_with_it(tmp_path: Path, ends: str) -> None:
    work = f"""
import subprocess, sys
from headrace.kernel.child import report_ready
sleeper = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
report_ready()
print(sleeper.pid, file=sys.stderr, flush=True)
{"raise SystemExit(1)" if ends == "by itself" else "sys.stdin.read()"}
"""
    log = tmp_path / "work" / "log"
    child = Child("work", [sys.executable, "-c", work], log, os.environ)
    try:
        until(lambda: log.read_text().endswith("\n"))
        first, sleeper = child.process.pid, int(log.read_text())
        if ends == "by itself":

            def is_restarted() -> bool:
                child.supervise(lambda _: None)
                return child.process.pid != first

            until(is_restarted)
        else:
            child.terminate()
            child.end(time.monotonic())
        until(lambda: _state(sleeper) in ("Z", None))
    finally:
        child.process.kill()
        child.end(0.0)


def test_a_suspended_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, WORK, str(tmp_path / "work" / "log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        until(lambda: _state(pid) == "T")
        parent.kill()
    until(lambda: _state(pid) in ("Z", None))


@pytest.mark.parametrize("ends", ["by itself", "by force"])
def test_what_a_child_started_ends_when_their_parent_is_killed(tmp_path: Path, ends: str) -> None:
    work = f"""
import signal, subprocess, sys, threading
from headrace.kernel import child
child._GRACE = 0.1
sleeper = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(sleeper.pid, file=sys.stderr, flush=True)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: {"stop.set()" if ends == "by itself" else "None"})
child.end_with_parent()
child.report_ready()
stop.wait()
"""
    log = tmp_path / "work" / "log"
    command = [sys.executable, "-c", PARENT, work, str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        sleeper = int(log.read_text())
        parent.kill()
    until(lambda: _state(pid) in ("Z", None) and _state(sleeper) in ("Z", None))


def test_a_wait_for_a_child_ends_when_it_is_told_to(tmp_path: Path) -> None:
    child = Child("work", [sys.executable, "-c", "input()"], tmp_path / "work" / "log", os.environ)
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    try:
        child.await_ready(stop)
        assert not child.ready
    finally:
        child.end(0.0)


LINES = """
import os, sys
for number in range(3000):
    print(f"line {number} of a library that prints", file=sys.stderr)
os.write(1, b"ready\\n")
input()
print("line 3000 of a library that prints", file=sys.stderr)
input()
"""


def test_a_log_that_grows_keeps_its_newest_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.kernel.children._LARGEST_LOG", 8_000)
    log = tmp_path / "work" / "log"
    child = Child("work", [sys.executable, "-c", LINES], log, os.environ)
    try:
        until(lambda: child.ready)
        assert log.stat().st_size > 100_000
        child.supervise(lambda _: None)
        assert 3_900 < log.stat().st_size <= 4_000
        assert child.last_log_line == f"line 2999 of a library that prints ({log})"
        assert child.process.stdin is not None
        child.process.stdin.write(b"\n")
        child.process.stdin.flush()
        until(lambda: child.last_log_line.startswith("line 3000 "))
        numbers = [int(line.split()[1]) for line in log.read_text().splitlines()]
        assert numbers == list(range(numbers[0], 3001))
    finally:
        child.process.kill()
        child.end(0.0)


def test_a_full_disk_is_named_if_a_child_could_not_write_why_it_ended(tmp_path: Path) -> None:
    parent = """
import os, resource, sys
from pathlib import Path
from headrace.kernel.children import Child
from headrace.kernel.errors import Unavailable
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
child = Child("work", [sys.executable, "-c", "raise SystemExit('why it ended')"], Path(sys.argv[1]), os.environ)
try:
    child.await_ready()
except Unavailable as error:
    print(error)
"""
    log = tmp_path / "work" / "log"
    command = [sys.executable, "-c", parent, str(log)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert output == f"work does not start (exit 1): its log cannot be written: File too large ({log})\n"


def test_a_child_whose_log_was_removed_is_supervised(tmp_path: Path) -> None:
    log = tmp_path / "work" / "log"
    child = Child("work", [sys.executable, "-c", LINES], log, os.environ)
    reports: list[str] = []
    try:
        until(lambda: child.ready)
        log.unlink()
        child.supervise(reports.append)
        child.process.kill()
        child.process.wait()
        child.supervise(reports.append)
        assert reports == [f"work ended (signal 9): it was killed ({log}); it is started again"]
        child.supervise(reports.append)
        until(lambda: child.ready)
        assert child.last_log_line == f"line 2999 of a library that prints ({log})"
    finally:
        child.process.kill()
        child.end(0.0)


def _state(pid: int) -> str | None:
    """The process' state as /proc writes it; None where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
