"""headrace doctor"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.config.settings import has_project
from headrace.flows.project.doctor import doctor as look
from headrace.workspace import Workspace

__all__ = ["doctor"]


@command("doctor", example="headrace doctor --profile prod")
def doctor(call: Call) -> int:
    """Check this machine and the profile's services, and show what to do about each problem.

    Outside a project only the machine is checked.
    """
    findings = look(_workspace(call))
    if call.json:
        show.json(findings)
    else:
        rows = [("ok" if finding.fine else "--", finding.what, finding.detail) for finding in findings]
        show.table(None, ["", "what", "found"], rows)
        for finding in findings:
            if not finding.fine and finding.remedy:
                click.echo(f"\n{finding.what}: {finding.detail}\n  {finding.remedy}")
    return 0 if all(finding.fine or not finding.required for finding in findings) else 1


def _workspace(call: Call) -> Workspace | None:
    """The project's workspace; None if there is no project here and none was named."""
    if call.project is None and call.profile is None and not has_project():
        return None
    return call.workspace()
