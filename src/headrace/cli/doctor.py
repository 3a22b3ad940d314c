"""headrace doctor"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, verb
from headrace.config.settings import Settings
from headrace.flows.project.doctor import doctor as look
from headrace.kernel.errors import ProjectError

__all__ = ["doctor"]


@verb("doctor", example="headrace doctor --profile prod")
def doctor(call: Call) -> int:
    """Say what works on this machine and of the profile's services, and what to do about the rest.

    Outside a project it looks at the machine alone.
    """
    found = look(_settings(call))
    if call.json:
        show.json(found)
    else:
        rows = [("ok" if one.fine else "--", one.what, one.found) for one in found]
        show.table(None, ["", "what", "found"], rows)
        for one in found:
            if not one.fine and one.remedy:
                click.echo(f"\n{one.what}: {one.found}\n  {one.remedy}")
    return 0 if all(one.fine or one.what == "haproxy" for one in found) else 1


def _settings(call: Call) -> Settings | None:
    """The project's settings; None where there is no project here and none was named."""
    try:
        return call.settings()
    except ProjectError as error:
        if call.project is None and call.profile is None and "there is no headrace.toml" in error.what:
            return None
        raise
