"""Kubeflow's SDK in an environment of its own: its pins clash with this project's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services.server import hold_cache

__all__ = ["VERSION", "python"]

VERSION = "0.5.0"


def python() -> Path:
    """The interpreter of an environment that has Kubeflow's SDK, of this interpreter's version; made once.

    Raises:
        RuntimeError: pip could not install it; with what it said.
    """
    with hold_cache(f"kubeflow-{VERSION}-py{sys.version_info[0]}.{sys.version_info[1]}") as folder:
        interpreter, done = folder / "bin" / "python", folder / ".ready"
        if not done.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            install = [str(interpreter), "-m", "pip", "install", "--quiet", f"kubeflow=={VERSION}"]
            installed = subprocess.run(install, capture_output=True, text=True, check=False)
            if installed.returncode:
                raise RuntimeError(f"Kubeflow's SDK could not be installed:\n{installed.stderr[-2000:]}")
            done.touch()
        return interpreter
