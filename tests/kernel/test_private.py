"""Folders for one user alone, and their parents."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from headrace.cluster.connection import ensure_token
from headrace.config.settings import load_settings
from headrace.kernel.private import is_open_to_others, make_private
from headrace.registry.signing import VARIABLE, signing_key


def test_each_missing_parent_is_closed_and_what_is_there_stays(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    assert make_private(there / "a" / "b") == there / "a" / "b"
    assert [is_open_to_others(path) for path in (there, there / "a", there / "a" / "b")] == [True, False, False]
    make_private(there)
    assert is_open_to_others(there)


def test_under_any_umask_the_state_folder_is_closed_and_its_keys_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SECURITY.md promises."""
    (tmp_path / "headrace.toml").write_text('[project]\nname = "small"\n')
    settings = load_settings(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    os.umask(0)  # the fixture `umask` sets it back
    signing_key(settings)
    ensure_token(settings)
    paths = (settings.state.parent, settings.state, *settings.state.iterdir())
    assert {path.name: f"{stat.S_IMODE(path.stat().st_mode):o}" for path in paths} == {
        ".headrace": "700",
        "local": "700",
        ".gitignore": "666",
        "project": "666",
        "signing.key": "600",
        "ray.token": "600",
    }
