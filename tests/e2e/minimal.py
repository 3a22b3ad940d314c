"""The example `minimal`, built once: what tests of the faces run on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import headrace
from headrace.api import OpenProject
from headrace.flows.project.init import init

__all__ = ["build_minimal"]


def build_minimal(folder: Path) -> OpenProject:
    """Makes, feeds and builds the project in a new folder."""
    init(folder, "minimal")
    subprocess.run([sys.executable, "generate.py"], cwd=folder, check=True)
    project = headrace.project(folder, profile="local")
    project.send("payments", folder / "payments.ndjson", shift_to_now=True)
    project.ingest()
    project.build()
    return project
