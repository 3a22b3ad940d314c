"""Folders for one user alone, and their parents."""

from __future__ import annotations

from pathlib import Path

from headrace.kernel.private import is_open_to_others, make_private


def test_each_missing_parent_is_closed_and_what_is_there_stays(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    assert make_private(there / "a" / "b") == there / "a" / "b"
    assert [is_open_to_others(path) for path in (there, there / "a", there / "a" / "b")] == [True, False, False]
    make_private(there)
    assert is_open_to_others(there)
