"""The options of every command, which may come before or after its name, and how errors are printed."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from headrace.cli.live import show_live
from headrace.kernel.errors import CallError, HeadraceError
from headrace.kernel.private import NO_PERMISSION

if TYPE_CHECKING:
    from headrace.config.settings import Settings
    from headrace.workspace import Workspace

# Errors of the machine that any command may meet when it writes. Every command can be run again after one.
_REMEDIES = {
    errno.ENOSPC: "Make room on the disk, then run it again: it continues where it stopped.",
    errno.EDQUOT: "This user's quota on the disk is used up: make room, then run it again.",
    errno.EROFS: "The file system is read-only: copy the project to a folder that can be written.",
    errno.EACCES: NO_PERMISSION,
    errno.EPERM: NO_PERMISSION,
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n), then run it again.",
    errno.ENFILE: "Too many files are open on this machine.",
}
_NO_TEMPORARY = "No usable temporary directory"  # of tempfile, which libraries call when they are imported

__all__ = ["OPTIONS", "Call", "command", "confirm", "group", "print_error"]


class Call(Struct):
    """The options of one call of the command line.

    Attributes:
        json: whether results are printed as one JSON object.
        profile: the value of --profile; None: that of the environment, else `local`.
        project: the value of --project; None: the project around the working folder.
        debug: whether errors are printed with their traceback, and libraries' warnings are shown.
    """

    json: bool = False
    profile: str | None = None
    project: Path | None = None
    debug: bool = False

    def settings(self) -> Settings:
        """The project's settings. Raises ProjectError like config.settings.load_settings."""
        from headrace.config.settings import load_settings  # it takes 60 ms, which --help does not need

        self.quiet()
        return load_settings(self.project, self.profile)

    def workspace(self) -> Workspace:
        """The project's workspace, which is closed when the command ends. Raises ProjectError as `settings`."""
        from headrace.workspace import Workspace

        return click.get_current_context().with_resource(Workspace(self.settings()))

    def quiet(self) -> None:
        """Hides the warnings and progress bars of libraries, unless --debug asks for them."""
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
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name:
        setattr(context.ensure_object(Call), parameter.name, value)


OPTIONS: list[click.Parameter] = [
    click.Option(["--json"], is_flag=True, help="Print JSON.", expose_value=False, callback=_store),
    click.Option(
        ["--profile"],
        metavar="NAME",
        help="The profile of headrace.toml to use.",
        expose_value=False,
        callback=_store,
    ),
    click.Option(
        ["--project"],
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The project's folder.",
        expose_value=False,
        callback=_store,
    ),
    click.Option(["--debug"], is_flag=True, help="Show tracebacks.", expose_value=False, callback=_store),
]


def command(name: str, *, example: str, hidden: bool = False) -> Callable[[Callable[..., Any]], click.Command]:
    """Makes a click command of a function that takes the Call first, then its own parameters.

    Args:
        name: the name of the command.
        example: a line or two that --help shows at its end.
        hidden: whether --help leaves the command out.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        decorated = click.command(name, hidden=hidden, epilog=_epilog(example))(click.pass_obj(function))
        for parameter in decorated.params:
            if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
                parameter.metavar = parameter.metavar or "N"
        decorated.params.extend(OPTIONS)
        return decorated

    return decorate


def group(name: str, *, example: str) -> Callable[[Callable[[], None]], click.Group]:
    """Makes a click group, such as `quarantine`, of a function, whose docstring is the help.

    Args:
        name: the name of the group.
        example: a line or two that --help shows at its end.
    """

    def decorate(function: Callable[[], None]) -> click.Group:
        settings = {"help_option_names": ["-h", "--help"]}
        decorated = click.group(name, epilog=_epilog(example), context_settings=settings)(function)
        decorated.params.extend(OPTIONS)
        return decorated

    return decorate


def _epilog(example: str) -> str:
    lines = "\n".join(f"  {line}" for line in example.splitlines())
    return f"\b\nExample:\n{lines}"


def confirm(call: Call, question: str) -> None:
    """Asks the question on standard error, which leaves standard output to the result.

    Raises:
        CallError: nobody can answer: --json was given, or standard input has ended.
        click.Abort: the user declines.
    """
    nobody = CallError(f"nobody can answer: {question}", remedy="To go on without the question: --yes")
    if call.json:
        raise nobody
    try:
        is_yes = click.confirm(question, err=True)
    except click.Abort as error:
        if sys.stdin.isatty():  # Ctrl-C
            raise
        click.echo(err=True)
        raise nobody from error
    if not is_yes:
        raise click.Abort


def print_error(call: Call, error: BaseException) -> None:
    """Prints to stderr what is wrong, where, and the remedy: with --json as one object, with --debug after the
    traceback."""
    from headrace.kernel.secrets import clean_text

    show_live("")
    if call.debug:
        import traceback

        click.echo(clean_text("".join(traceback.format_exception(error))), nl=False, err=True)
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        error = HeadraceError(
            f"the system refused access to a file: {error.strerror}",
            where=error.filename,
            remedy=_REMEDIES[error.errno],
        )
    if isinstance(error, OSError) and str(error.strerror).startswith(_NO_TEMPORARY):
        error = HeadraceError(
            str(error.strerror),
            remedy="Make room on the disk, or name a folder with room by TMPDIR, then run it again.",
        )
    if isinstance(error, HeadraceError):
        what, remedy = clean_text(error.what), error.remedy
        where = None if error.where is None else clean_text(error.where)
    else:
        what, where = clean_text(f"{type(error).__name__}: {error}"), None
        remedy = "This is a bug or an unexpected state; --debug shows its traceback."
    if call.json:
        fields = {"error": what, "where": where, "remedy": remedy}
        click.echo(json.dumps({k: v for k, v in fields.items() if v is not None}), err=True)
        return
    click.echo(f"{click.style('error:', fg='red', bold=True)} {what}", err=True)
    if where:
        click.echo(f"  at {where}", err=True)
    if remedy:
        click.echo("\n".join(f"  {line}" for line in remedy.splitlines()), err=True)
