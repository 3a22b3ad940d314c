"""What a command prints of a release."""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call
from headrace.serving.release import Release

__all__ = ["print_release"]


def print_release(call: Call, release: Release) -> None:
    """Prints a release: its arms, who released it, and why."""
    if call.json:
        show.json(release)
        return
    click.echo(
        f"Release {release.id} of {release.model}, by {release.by}"
        + (f": {release.why}" if release.why else "")
    )
    rows = [
        (arm.name, arm.version, "shadow" if arm.shadow else f"{100 * arm.weight:.6g}%") for arm in release.arms
    ]
    show.table(None, ["arm", "version", "share"], rows)
