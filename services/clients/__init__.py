"""KServe's and Triton's clients in an environment of their own: KServe's pins clash with this project's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services.server import Missing, hold_cache

__all__ = ["PACKAGES", "python"]

PACKAGES = ("kserve==0.21.0", "tritonclient[http]==2.73.0")


def python() -> Path:
    """The interpreter of an environment that has the clients, of this interpreter's version; made once.

    Raises:
        Missing: they cannot be installed; with what was said.
    """
    versions = "-".join(package.rpartition("==")[2] for package in PACKAGES)
    with hold_cache(f"clients-{versions}-py{sys.version_info[0]}.{sys.version_info[1]}") as folder:
        interpreter, done = folder / "bin" / "python", folder / ".ready"
        if not done.exists():
            _run_uv("venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
            _run_uv("pip", "install", "--quiet", "--python", str(interpreter), *PACKAGES)
            done.touch()
        return interpreter


def _run_uv(*arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("uv")), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Missing(f"KServe's and Triton's clients cannot be installed: {ended.stderr.strip()[-2000:]}")
