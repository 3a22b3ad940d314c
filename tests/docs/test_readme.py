"""The first screen of the README, followed as a reader would: here, and from the wheel in a new environment."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.docs.blocks import Reader

ROOT = Path(__file__).parents[2]
FREE_PORTS = {f"HEADRACE_{name}_PORT": "0" for name in ("PREDICT", "COLLECTOR", "CONSOLE")}


def follow_readme(folder: Path, **environment: str) -> Reader:
    reader = Reader(folder, **FREE_PORTS, **environment)
    try:
        reader.follow(ROOT / "README.md")
    finally:
        code = reader.stop()
    assert code == 0
    return reader


def test_the_readme_works_as_it_is_written(tmp_path: Path) -> None:
    follow_readme(tmp_path)


def test_the_wheel_holds_the_examples(tmp_path: Path) -> None:
    """Without the checkout and its installation: the package and the examples come from the wheel alone."""
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "build", "--wheel", "--quiet", "--out-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    package = tmp_path / "package"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(package)
    tracked = subprocess.run(
        ["git", "ls-files", "examples"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for file in tracked:
        assert (package / "headrace" / file).read_bytes() == (ROOT / file).read_bytes(), file
    for example in sorted(path.name for path in (ROOT / "examples").iterdir()):
        subprocess.run(
            [sys.executable, "-m", "headrace.cli.main", "init", example, "--example", example],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(package)},
            check=True,
        )
        assert (tmp_path / example / "headrace.toml").is_file()


@pytest.mark.soak
def test_the_wheel_runs_the_readme_in_a_fresh_environment(tmp_path: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))

    def call(*command: str | Path) -> None:
        subprocess.run(command, cwd=tmp_path, check=True, timeout=900)

    call(uv, "build", "--wheel", "--quiet", "--out-dir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    call(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python, lock = tmp_path / "venv" / "bin" / "python", ROOT / "requirements" / "headrace.txt"
    call(uv, "pip", "install", "--quiet", "--python", python, "--constraint", lock, wheel)
    (tmp_path / "work").mkdir()
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    reader = follow_readme(tmp_path / "work", PATH=path, PYTHONPATH="", VIRTUAL_ENV=str(tmp_path / "venv"))
    assert reader.which("headrace") == python.with_name("headrace")
    demo = subprocess.run(
        [python.with_name("headrace"), "demo", "iris", "--folder", tmp_path / "iris"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "Every check passed" in demo.stdout
