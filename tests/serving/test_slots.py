"""Slots of processes in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from headrace.serving.slots import count_slots, take_slot

HOLD = "import sys; from pathlib import Path; from headrace.serving.slots import take_slot; "
HOLD += "lock, number = take_slot(Path(sys.argv[1])); print(number, flush=True); sys.stdin.read()"


def test_slots_are_counted_while_their_processes_live(tmp_path: Path) -> None:
    first, number = take_slot(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert (number, int(other.stdout.readline())) == (1, 2)
        assert count_slots(tmp_path) == 2
        other.kill()
        other.wait()
    assert count_slots(tmp_path) == 1
    first.close()
    assert count_slots(tmp_path) == 0
    lock, number = take_slot(tmp_path)
    lock.close()
    assert number == 1
    assert count_slots(tmp_path / "none") == 0
