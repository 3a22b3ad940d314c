"""headrace release"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.flows.models.release import release as divide
from headrace.serving.release import Release

__all__ = ["print_release", "release"]


@command(
    "release",
    example="headrace release purchase champion=3\nheadrace release purchase challenger=4:0.1 shadow=5",
)
@click.argument("model")
@click.argument("arms", nargs=-1, required=True, metavar="ARM=VERSION[:SHARE]...")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept with the release.")
@click.option("--override", is_flag=True, help="Release even a version that the gate refused.")
def release(call: Call, model: str, arms: tuple[str, ...], why: str, override: bool) -> None:
    """Divide MODEL's traffic among its versions.

    Each ARM (champion, challenger, shadow) names a version. The share of an arm follows a colon; the champion
    gets the rest. A shadow gets a copy of every request, and its predictions are only logged.
    """
    print_release(call, divide(call.workspace(), model, arms, why=why, override=override))


def print_release(call: Call, release: Release) -> None:
    """Prints a release: its arms, who released it, and why."""
    if call.json:
        show.json(release)
        return
    click.echo(
        f"Release {release.id} of {release.model}, by {release.by}"
        + (f": {release.why}" if release.why else "")
    )
    rows = [(arm.name, arm.version, "shadow" if arm.shadow else f"{arm.weight:.0%}") for arm in release.arms]
    show.table(None, ["arm", "version", "share"], rows)
