"""Files are replaced whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.kernel.files import create_file, move_into_place, replace_file, write_file


def test_a_file_is_made_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    write_file(path, "first")
    write_file(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["notes.json"]


def test_a_failure_while_writing_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    write_file(path, "first")

    def write_half() -> None:
        with replace_file(path) as file:
            file.write(b"half of it")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_half()
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["notes.json"]


def test_nobody_sees_the_new_content_before_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    write_file(path, "first")
    with replace_file(path) as file:
        file.write(b"second")
        file.flush()
        assert path.read_text() == "first"
    assert path.read_text() == "second"


def test_a_file_has_the_permissions_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_file(path, "secret", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_moves_into_place_only_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "a").write_text("new")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "a").write_text("old")
    with pytest.raises(OSError, match="not empty"):
        move_into_place(tmp_path / "draft", tmp_path / "taken")
    move_into_place(tmp_path / "draft", tmp_path / "free")
    assert (tmp_path / "free" / "a").read_text() == "new"
    assert (tmp_path / "taken" / "a").read_text() == "old"


def test_only_the_first_of_several_creates_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert create_file(path, "first", mode=0o600)
    assert not create_file(path, "second", mode=0o600)
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["token"]
