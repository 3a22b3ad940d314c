"""Airflow in an environment of its own: its pins clash with this project's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from services.server import CACHE, hold_cache

__all__ = ["VERSION", "home", "python", "variables"]

VERSION = "3.3.0"
_FOLDER = CACHE / f"airflow-{VERSION}-py{sys.version_info[0]}.{sys.version_info[1]}"


def python() -> Path:
    """The interpreter of an environment that has Airflow, of this interpreter's version; made once.

    Raises:
        RuntimeError: it could not be installed, or its database could not be made; with what was said.
    """
    interpreter = _FOLDER / "bin" / "python"
    done = _FOLDER / ".ready"
    with hold_cache(_FOLDER.name):
        if not done.exists():
            _run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(_FOLDER))
            install = ("pip", "install", "--quiet", "--python", str(interpreter), f"apache-airflow=={VERSION}")
            _run("uv", *install)
            _run(str(_FOLDER / "bin" / "airflow"), "db", "migrate", environment=variables(_FOLDER / "home"))
            done.touch()
    return interpreter


def home(folder: Path) -> dict[str, str]:
    """Makes a home of Airflow with an empty database in the folder; returns its environment variables."""
    python()
    folder.mkdir(parents=True)
    shutil.copy(_FOLDER / "home" / "airflow.db", folder)
    (folder / "dags").mkdir()
    return variables(folder)


def variables(folder: Path) -> dict[str, str]:
    """The environment variables of an Airflow whose home is the folder: quiet, small, without examples."""
    return {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "PYTHONDONTWRITEBYTECODE": "",  # else each process would compile all of Airflow again
    }


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, **(environment or {})},
    )
    if ended.returncode:
        raise RuntimeError(f"Airflow could not be installed:\n{(ended.stderr or ended.stdout)[-2000:]}")
