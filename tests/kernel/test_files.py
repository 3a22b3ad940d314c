"""Files are replaced whole, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.kernel.files import (
    create_draft,
    create_file,
    move_into_place,
    remove_dead_drafts,
    remove_path,
    replace_file,
    write_file,
)


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


KILLED = """
import os, signal, sys
from pathlib import Path
from headrace.kernel import files
path = Path(sys.argv[1])
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
files.write_file(path, "half") if sys.argv[2] == "write" else files.create_file(path, "half")
"""


@pytest.mark.parametrize("kind", ["write", "create"])
def test_a_draft_of_a_killed_process_is_removed_at_the_next_write(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "notes.json", tmp_path / "other.json"
    own = tmp_path / ".notes.json.part"
    own.write_text("of the user")
    subprocess.run([sys.executable, "-c", KILLED, str(path), kind], check=False)
    (draft,) = set(tmp_path.iterdir()) - {own}
    assert draft.name.startswith(".notes.json.")
    write_file(other, "whole")
    assert set(tmp_path.iterdir()) == {own, other}


def test_a_draft_that_is_written_now_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    draft, descriptor = create_draft(path)
    with replace_file(path) as file:
        file.write(b"first")
        remove_dead_drafts(tmp_path)
        write_file(tmp_path / "other.json", "whole")
        assert draft.exists()
    assert path.read_text() == "first"
    os.close(descriptor)


def test_whatever_is_at_a_path_is_removed(tmp_path: Path) -> None:
    folder, file, link = tmp_path / "folder", tmp_path / ".DS_Store", tmp_path / "link"
    (folder / "in").mkdir(parents=True)
    (kept := tmp_path / "kept").mkdir()
    file.touch()
    link.symlink_to(kept)
    for path in (folder, file, link, tmp_path / "nothing"):
        remove_path(path)
    assert list(tmp_path.iterdir()) == [kept]
