"""What every verb takes, and how errors look: the options may stand before or after the verb."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.kernel.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.config.settings import Settings

# What any verb may meet wherever it writes. Everything is written so that the next call goes on.
_MACHINE = {
    errno.ENOSPC: "Make room on the disk, then call it again: it goes on where it was.",
    errno.EDQUOT: "This user's share of the disk is used up: make room, then call it again.",
    errno.EROFS: "The file system is read-only.",
    errno.EACCES: "This user may not read or write there.",
    errno.EPERM: "This user may not read or write there.",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n), then call it again.",
    errno.ENFILE: "Too many files are open on this machine.",
}

__all__ = ["OPTIONS", "Call", "print_error", "verb"]


@dataclass
class Call:
    """The options of this call.

    Attributes:
        json: results are printed as JSON, one object.
        profile: the profile named, else the environment's, else `local`.
        project: the project's folder, else the one around the working folder.
        debug: errors come with their traceback, and libraries' warnings are shown.
    """

    json: bool = False
    profile: str | None = None
    project: Path | None = None
    debug: bool = False

    def settings(self) -> Settings:
        """The project's settings. Raises ProjectError as config.settings.load_settings does."""
        from headrace.config.settings import load_settings  # 60 ms that --help does not pay

        self.quiet()
        return load_settings(self.project, self.profile)

    def quiet(self) -> None:
        """Libraries' warnings and progress are for their developers; ours is what a verb prints."""
        if self.debug:
            return
        import logging
        import warnings

        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            os.environ.setdefault("PYTHONWARNINGS", "ignore")
        for name in ("alembic", "dvc", "feast", "mlflow", "optuna", "pyiceberg", "ray", "sqlalchemy"):
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("DVC_NO_ANALYTICS", "1")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def _kept(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name:
        setattr(context.ensure_object(Call), parameter.name, value)


OPTIONS: list[click.Parameter] = [
    click.Option(["--json"], is_flag=True, help="Print JSON.", expose_value=False, callback=_kept),
    click.Option(
        ["--profile"], metavar="NAME", help="The profile to run on.", expose_value=False, callback=_kept
    ),
    click.Option(
        ["--project"],
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The project's folder.",
        expose_value=False,
        callback=_kept,
    ),
    click.Option(["--debug"], is_flag=True, help="Show tracebacks.", expose_value=False, callback=_kept),
]


def verb(name: str, *, example: str, hidden: bool = False) -> Callable[[Callable[..., Any]], click.Command]:
    """Makes a click command of a function that takes the Call first, then its own parameters.

    Args:
        name: the verb.
        example: a line or two that --help shows at its end.
        hidden: left out of lists.
    """

    def made(function: Callable[..., Any]) -> click.Command:
        lines = "\n".join(f"  {line}" for line in example.splitlines())
        command = click.command(name, hidden=hidden, epilog=f"\b\nExample:\n{lines}")(click.pass_obj(function))
        command.params.extend(OPTIONS)
        return command

    return made


def print_error(call: Call, error: BaseException) -> None:
    """To stderr: what went wrong, where, what to do; with --json one object; with --debug the traceback."""
    from headrace.kernel.secrets import clean_text

    if call.debug:
        import traceback

        click.echo(clean_text("".join(traceback.format_exception(error))), nl=False, err=True)
    if isinstance(error, OSError) and error.errno in _MACHINE:
        error = HeadraceError(
            f"the machine refuses a file: {error.strerror}", where=error.filename, remedy=_MACHINE[error.errno]
        )
    if isinstance(error, HeadraceError):
        what, remedy = clean_text(error.what), error.remedy
        where = None if error.where is None else clean_text(error.where)
    else:
        what, where = clean_text(f"{type(error).__name__}: {error}"), None
        remedy = "This is not an error that Headrace foresees; --debug shows its traceback."
    if call.json:
        told = {"error": what, "where": where, "remedy": remedy}
        click.echo(json.dumps({k: v for k, v in told.items() if v is not None}), err=True)
        return
    click.echo(f"{click.style('error:', fg='red', bold=True)} {what}", err=True)
    if where:
        click.echo(f"  at {where}", err=True)
    if remedy:
        click.echo("\n".join(f"  {line}" for line in remedy.splitlines()), err=True)
