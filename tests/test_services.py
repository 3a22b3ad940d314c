"""The servers of the tests, which several processes may start for the first time at the same moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from services import server


def test_what_two_processes_need_at_once_is_made_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CACHE", tmp_path / "cache")
    make = "echo begun >> runs; printf half > program; sleep 0.3; printf ' whole' >> program"
    together = Barrier(2)

    def read_program(_: int) -> str:
        together.wait(60)
        return server.go_program("slow", "program", ["sh", "-c", make]).read_text()

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(read_program, range(2))) == ["half whole"] * 2
    assert (tmp_path / "cache" / "slow" / "runs").read_text() == "begun\n"
