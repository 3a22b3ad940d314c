"""Environments: made by uv from wheels, once for equal needs, whole or not at all, and removed in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from headrace.kernel.errors import Refused, Unavailable
from headrace.serving.mlflow_models.environments import (
    check_needs,
    ensure_environment,
    find_environment,
    python_version,
    remove_environments,
)
from headrace.serving.mlflow_models.needs import Needs

HERE = ".".join(map(str, sys.version_info[:3]))
SMALL = Needs(HERE, ["six==1.16.0"])
MAKE = """
import sys
from pathlib import Path
from headrace.serving.mlflow_models.environments import ensure_environment
from headrace.serving.mlflow_models.needs import Needs
print(ensure_environment(Path(sys.argv[1]), Needs(sys.argv[2], ["six==1.16.0"])))
"""


def names(root: Path) -> set[str]:
    """What lies in the folder of all environments, without locks."""
    return {path.name for path in root.iterdir() if path.suffix != ".lock"}


def installed_in(python: Path) -> set[str]:
    """The distributions of an environment, asked of its own Python, which ignores what surrounds this test."""
    ask = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
    answer = subprocess.run([python, "-I", "-c", ask], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all environments, with the one for SMALL."""
    root = tmp_path_factory.mktemp("environments")
    ensure_environment(root, SMALL)
    return root


def test_an_environment_has_exactly_what_is_needed(root: Path) -> None:
    python = ensure_environment(root, SMALL)
    assert installed_in(python) == {"six==1.16.0"}
    assert python_version(python) == HERE
    assert python == root / SMALL.digest / "bin" / "python"
    assert (root / SMALL.digest).stat().st_mode & 0o077 == 0


def test_equal_needs_share_an_environment(root: Path) -> None:
    inode = (root / SMALL.digest).stat().st_ino
    minor = HERE.rpartition(".")[0]
    assert (
        ensure_environment(root, Needs(f"{minor}.99", ["six==1.16.0"]))
        == root / SMALL.digest / "bin" / "python"
    )
    assert (root / SMALL.digest).stat().st_ino == inode
    assert names(root) == {SMALL.digest}


def test_processes_that_make_one_environment_at_once_make_it_once(tmp_path: Path) -> None:
    pythons: list[Path] = []
    threads = [
        threading.Thread(target=lambda: pythons.append(ensure_environment(tmp_path, SMALL))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pythons == [tmp_path / SMALL.digest / "bin" / "python"] * 4
    assert names(tmp_path) == {SMALL.digest}


def test_a_creation_that_is_killed_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    environment = {**os.environ, "HEADRACE_FAULT": "environments.before_place"}
    command = [sys.executable, "-c", MAKE, tmp_path, HERE]
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert find_environment(tmp_path, SMALL) is None
    assert len(names(tmp_path)) == 1  # the draft
    assert installed_in(ensure_environment(tmp_path, SMALL)) == {"six==1.16.0"}
    assert names(tmp_path) == {SMALL.digest}


def test_an_environment_whose_interpreter_is_gone_is_made_again(tmp_path: Path) -> None:
    python = ensure_environment(tmp_path, SMALL)
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    assert find_environment(tmp_path, SMALL) is None
    assert installed_in(ensure_environment(tmp_path, SMALL)) == {"six==1.16.0"}


def test_what_is_not_needed_is_removed(tmp_path: Path) -> None:
    other = Needs(HERE, ["six==1.15.0"])
    ensure_environment(tmp_path, SMALL)
    ensure_environment(tmp_path, other)
    (tmp_path / f".{other.digest}.abandoned").mkdir()
    assert remove_environments(tmp_path, {SMALL.digest}) == [other.digest]
    assert names(tmp_path) == {SMALL.digest}
    assert remove_environments(tmp_path / "absent", set()) == []


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (
            Needs(HERE, ["six==99"]),
            "Because there is no version of six==99 and you require six==99, we can conclude that",
        ),
        (Needs(HERE, ["six==1.16.0"], ["six<1.16"]), "your requirements are unsatisfiable"),
        (Needs(HERE, ["no-such-package-of-headrace==1"]), "was not found in the package registry"),
        (Needs(HERE, ["six = = 1"]), "Couldn't parse requirement"),
        (Needs(HERE, ["--no-such-option"]), "requirements.txt"),
        (Needs("3.4.1", ["six"]), "Python 3.4 is not on this machine"),
    ],
)
@pytest.mark.parametrize("make", [ensure_environment, check_needs])
def test_needs_that_cannot_be_met_are_refused_in_a_sentence(
    tmp_path: Path, needs: Needs, message: str, make: type
) -> None:
    with pytest.raises(Refused) as caught:
        make(tmp_path, needs)
    assert message in str(caught.value)
    assert "\n" not in caught.value.what
    assert not tmp_path.exists() or names(tmp_path) == set()


def test_nothing_is_built_from_source(tmp_path: Path) -> None:
    """A package that exists as a source distribution alone would run its setup.py here."""
    with pytest.raises(Refused, match="has no usable wheels"):
        check_needs(tmp_path, Needs(HERE, ["docopt==0.6.2"]))


def test_an_index_that_is_away_is_not_the_models_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    needs = Needs(HERE, ["--index-url http://user:password@127.0.0.1:1/simple", "six==1.16.0"])
    with pytest.raises(Unavailable, match="the package index cannot be reached") as caught:
        check_needs(tmp_path, needs)
    assert "password" not in str(caught.value)


def test_settings_of_this_process_do_not_reach_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    monkeypatch.setenv("PYTHONPATH", str(Path(httpx.__file__).parents[1]))
    monkeypatch.setenv("PYTHONHOME", "/absent")
    assert installed_in(ensure_environment(tmp_path, SMALL)) == {"six==1.16.0"}
