"""Runs builds of a small project in its own process, with git and DVC beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.command_line import call_headrace

from headrace.config.settings import Settings

__all__ = ["call", "commit", "dvc_agrees", "git", "run_build"]


def call(settings: Settings, *arguments: str, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command line, or dvc, in a separate process, which imports edited code and can be killed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if fault:
        environment["HEADRACE_FAULT"] = fault
    if arguments[0] != "dvc":
        return call_headrace(*arguments, folder=settings.root, environment=environment)
    return subprocess.run(
        arguments, cwd=settings.root, env=environment, capture_output=True, text=True, timeout=300
    )


def run_build(settings: Settings, *arguments: str) -> list[str]:
    out = call(settings, "build", *arguments)
    assert out.returncode == 0, out.stderr
    return [line.split()[0] for line in out.stdout.splitlines() if line.startswith("  ")]


def dvc_agrees(settings: Settings) -> bool:
    out = call(settings, "dvc", "status")
    assert out.returncode == 0, out.stderr
    return "up to date" in out.stdout


def git(settings: Settings, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
    return subprocess.run(
        command, cwd=settings.root, check=True, capture_output=True, text=True, timeout=300
    ).stdout


def commit(settings: Settings, tag: str) -> None:
    git(settings, "add", "-A")
    git(settings, "commit", "-qm", tag)
    git(settings, "tag", tag)
