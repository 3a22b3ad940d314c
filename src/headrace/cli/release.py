"""headrace release"""

from __future__ import annotations

import click
from click.core import ParameterSource

from headrace.cli.call import Call, command
from headrace.cli.release_text import print_release
from headrace.flows.models.canary import start
from headrace.flows.models.release import release as divide
from headrace.kernel.errors import CallError
from headrace.serving.canary import Better

__all__ = ["release"]


@command(
    "release",
    example="headrace release purchase champion=3\nheadrace release purchase challenger=4:0.1 shadow=5\n"
    "headrace release purchase canary=4 --steps 1%,5%,25%,100%",
)
@click.argument("model")
@click.argument("arms", nargs=-1, required=True, metavar="ARM=VERSION[:SHARE]...")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept with the release.")
@click.option("--override", is_flag=True, help="Release even a version that the gate refused.")
@click.option(
    "--steps", metavar="SHARES", help="The shares of a canary, which advances or is rolled back by itself."
)
@click.option(
    "--min-requests", default=1_000, show_default=True, help="The canary's answers before its next step."
)
@click.option(
    "--min-outcomes", default=0, show_default=True, help="Known outcomes of them before its next step."
)
@click.option(
    "--better",
    type=click.Choice(["right", "higher", "lower"]),
    default="right",
    show_default=True,
    help="Which outcomes are better: those that are predicted right, higher or lower ones.",
)
def release(
    call: Call,
    model: str,
    arms: tuple[str, ...],
    why: str,
    override: bool,
    steps: str | None,
    min_requests: int,
    min_outcomes: int,
    better: Better,
) -> None:
    """Divide MODEL's traffic among its versions.

    With --steps, the one arm canary=VERSION gets the first share. While headrace up runs, the canary advances
    to the next one if it is not worse, or is rolled back if it is; headrace canary shows why.

    Each ARM (champion, challenger, shadow) names a version. The share of an arm follows a colon; the champion
    gets the rest. A shadow gets a copy of every request, and its predictions are only logged.
    """
    workspace = call.workspace()
    if steps is None:
        _refuse_canary_options()
        print_release(call, divide(workspace, model, arms, why=why, override=override))
        return
    if len(arms) != 1:
        raise CallError(
            "--steps is for one arm", remedy="headrace release MODEL canary=VERSION --steps 1%,100%"
        )
    new = start(
        workspace,
        model,
        arms[0],
        _parse_steps(steps),
        min_requests=min_requests,
        min_outcomes=min_outcomes,
        better=better,
        why=why,
        override=override,
    )
    print_release(call, new)


def _refuse_canary_options() -> None:
    context = click.get_current_context()
    for name in ("min_requests", "min_outcomes", "better"):
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise CallError(
                f"--{name.replace('_', '-')} is for a canary",
                remedy="headrace release MODEL canary=VERSION --steps 1%,100%",
            )


def _parse_steps(text: str) -> list[float]:
    """The shares of `1%,5%,25%,100%`, or of `0.01,0.05`."""
    try:
        parts = [part.strip() for part in text.split(",")]
        return [float(part[:-1]) / 100 if part.endswith("%") else float(part) for part in parts]
    except ValueError as error:
        raise CallError(f"{text!r} are not valid steps", remedy="Write them as 1%,5%,25%,100%") from error
