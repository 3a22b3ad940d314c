"""What a terminal shows while a command works, and when it is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.terminal import render, run_on_terminal

from headrace.flows.project.init import init

NARROW = 34  # columns: fewer than the line of a running stage has
HEADRACE = (sys.executable, "-m", "headrace.cli.main")


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project, and what a terminal got while events were sent to it."""
    folder = init(tmp_path_factory.mktemp("live") / "payments", "minimal").folder
    subprocess.run([sys.executable, "generate.py"], cwd=folder, check=True)
    code, written = run_on_terminal([*HEADRACE, "send", "payments", "payments.ndjson"], folder)
    assert code == 0, written
    return folder, written


def test_sent_events_are_counted_while_they_are_sent(sent: tuple[Path, str]) -> None:
    _, written = sent
    assert "  20,000 events" in written
    (line, end) = render(written)
    assert line.startswith("Sent 20,000 events to payments in")
    assert end == ""


def test_a_running_stage_leaves_nothing_on_a_narrow_terminal(sent: tuple[Path, str]) -> None:
    folder, _ = sent
    subprocess.run([*HEADRACE, "ingest", "--until-end"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    code, written = run_on_terminal([*HEADRACE, "build", "payment_labels"], folder, NARROW)
    assert code == 0, written
    running = f"  {'table-payment_labels':<26} begins"
    assert len(running) > NARROW - 1
    assert running[: NARROW - 1] in written
    lines = render(written, NARROW)
    assert "begin" not in "".join(lines)
    assert (lines[0], lines[-2][:14], lines[-1]) == (
        f"{'  table-payment_labels':<{NARROW}}",
        "Ran 1 stage in",
        "",
    )


def test_an_error_stands_on_a_line_of_its_own(sent: tuple[Path, str]) -> None:
    folder, _ = sent
    (folder / "broken.csv").write_text("payment,card\n" + "p,1\n" * 20_000 + "p,1,2\n")
    code, written = run_on_terminal([*HEADRACE, "send", "payments", "broken.csv"], folder)
    assert code != 0
    assert render(written)[0].startswith("error: row 20,001 has 3 cells")
