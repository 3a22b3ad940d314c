"""PyFlink in an environment of its own: its pins clash with this project's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services.server import hold_cache, jars

__all__ = ["VERSION", "connector", "python"]

VERSION = "2.3.0"


def python() -> Path:
    """The interpreter of an environment that has PyFlink and msgspec; made once.

    Raises:
        RuntimeError: pip could not install it; with what it said.
    """
    with hold_cache(f"flink-{VERSION}") as folder:
        interpreter, done = folder / "bin" / "python", folder / ".ready"
        if not done.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            install = [
                str(interpreter),
                "-m",
                "pip",
                "install",
                "--quiet",
                f"apache-flink=={VERSION}",
                "msgspec",
            ]
            installed = subprocess.run(install, capture_output=True, text=True, check=False)
            if installed.returncode:
                raise RuntimeError(f"PyFlink could not be installed:\n{installed.stderr[-2000:]}")
            done.touch()
        return interpreter


def connector() -> Path:
    """The jar that lets Flink read from and write to Kafka."""
    return next(jars("flink").glob("flink-sql-connector-kafka-*.jar"))
