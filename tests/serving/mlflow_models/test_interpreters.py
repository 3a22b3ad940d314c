"""Interpreters: those of this machine are found by their version, whatever is on the PATH."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headrace.kernel.errors import Refused
from headrace.serving.mlflow_models.interpreters import Interpreter, find_interpreter

HERE = ".".join(map(str, sys.version_info[:3]))
MINOR = ".".join(map(str, sys.version_info[:2]))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without Pythons, and an empty PATH."""
    for name in ("PYENV_ROOT", "XDG_DATA_HOME", "UV_PYTHON_INSTALL_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    return tmp_path


def install(folder: Path, version: str, answer: str | None = None) -> Path:
    """A program that tells this version as a Python does, or fails as a shim of pyenv does."""
    path = folder / f"python{version.rpartition('.')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{'exit 127' if answer is None else f'echo {answer}'}\n")
    path.chmod(0o755)
    return path


@pytest.mark.usefixtures("home")
def test_this_python_is_found_without_a_path() -> None:
    assert find_interpreter(HERE).version == HERE
    assert find_interpreter(MINOR).version == HERE


def test_the_exact_patch_is_preferred_then_the_newest(home: Path) -> None:
    versions = home / ".pyenv" / "versions"
    paths = {
        version: install(versions / version / "bin", version, version)
        for version in ("3.5.9", "3.5.10", "3.5.2")
    }
    assert find_interpreter("3.5.2") == Interpreter(paths["3.5.2"], "3.5.2")
    assert find_interpreter("3.5.7") == Interpreter(paths["3.5.10"], "3.5.10")
    assert find_interpreter("3.5") == Interpreter(paths["3.5.10"], "3.5.10")


def test_pythons_of_uv_are_found(home: Path) -> None:
    folder = home / ".local" / "share" / "uv" / "python" / "cpython-3.5.4-linux-x86_64-gnu" / "bin"
    path = install(folder, "3.5.4", "3.5.4")
    assert find_interpreter("3.5.9") == Interpreter(path, "3.5.4")


def test_a_shim_that_fails_is_passed_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyenv's shim of a version that is not chosen ends with 127; so does a link to nothing."""
    shims = home / "shims"
    install(shims, "3.5.4")
    monkeypatch.setenv("PATH", f"{shims}:{home / 'absent'}")
    with pytest.raises(Refused, match=r"Python 3\.5 is not on this machine") as caught:
        find_interpreter("3.5.4")
    assert caught.value.remedy == "Install it: uv python install 3.5, or pyenv install 3.5"
    path = install(home / ".pyenv" / "versions" / "3.5.4" / "bin", "3.5.4", "3.5.4")
    assert find_interpreter("3.5.4").path == path


def test_a_program_of_another_version_is_not_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    install(home, "3.5.4", "3.50.1")
    with pytest.raises(Refused, match=r"Python 3\.5 is not"):
        find_interpreter("3.5.4")
