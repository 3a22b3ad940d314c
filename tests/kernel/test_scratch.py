"""Scratch folders end with their process."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from headrace.kernel.scratch import make_scratch

KILLED = """
import os, signal, sys
from pathlib import Path
from headrace.kernel.scratch import make_scratch
with make_scratch(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_of_a_killed_process_is_removed_and_one_in_use_is_not(tmp_path: Path) -> None:
    parent = tmp_path / "scratch"
    with make_scratch(parent) as first:
        (first / "file").write_text("whole")
        assert first.stat().st_mode & 0o777 == 0o700
        subprocess.run([sys.executable, "-c", KILLED, str(parent)], check=False)
        assert len(list(parent.iterdir())) == 2
        with make_scratch(parent) as second:
            assert set(parent.iterdir()) == {first, second}
        assert (first / "file").read_text() == "whole"
    assert list(parent.iterdir()) == []


def test_several_threads_have_folders_of_their_own(tmp_path: Path) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for _ in range(100):
            with make_scratch(tmp_path) as folder:
                (folder / "number").write_text(str(number))
                if [path.name for path in folder.iterdir()] != ["number"]:
                    wrong.append(folder)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, list(tmp_path.iterdir())) == ([], [])
