"""headrace: the command line. Each verb is imported when it is called, so that --help costs nothing."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from headrace.cli.call import OPTIONS, Call, print_error
from headrace.kernel.errors import CallError, HeadraceError
from headrace.kernel.private import set_private_umask

__all__ = ["VERBS", "Verbs", "cli", "main"]

# verb: (the module that holds a click command of that name, one line of help). No line: hidden.
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("headrace.cli.demo", "The shop, end to end, in a scratch folder."),
    "init": ("headrace.cli.init", "Make a new project."),
    "doctor": ("headrace.cli.doctor", "Say what works on this machine, and what to do about the rest."),
    "send": ("headrace.cli.send", "Put the events of a file on a topic."),
    "ingest": ("headrace.cli.ingest", "Move events from the log into tables and the online state."),
    "capture": ("headrace.cli.capture", "Put the changes of database tables on the log."),
    "quarantine": ("headrace.cli.quarantine", "See what was refused and why; try it again."),
    "build": ("headrace.cli.build", "Bring up to date what is stale, nothing else."),
    "run-stage": ("headrace.cli.run_stage", ""),
    "status": ("headrace.cli.status", "Say what is stale and why, what runs, how fresh it is."),
    "up": ("headrace.cli.up", "Answer predictions, collect and ingest events, until Ctrl-C."),
    "predict": ("headrace.cli.predict", "Ask a running endpoint for one prediction."),
    "release": ("headrace.cli.release", "Divide a model's traffic among its versions."),
    "rollback": ("headrace.cli.rollback", "Go back to the release before."),
    "why": ("headrace.cli.why", "Say what a prediction was made from, or what became of an event."),
    "check": ("headrace.cli.check", "Prove that what was served is what training would have seen."),
    "export": ("headrace.cli.export", "Write what another tool needs of the project."),
    "drop-table": ("headrace.cli.drop_table", "Delete a table that a build made."),
    "clean": ("headrace.cli.clean", "Delete what the project made on this machine, after asking."),
}

_OF_THE_PROJECT = {"demo", "init", "build", "run-stage", "export"}
"""Verbs that write files of the project itself, which others of a group may read."""


class Verbs(click.Group):
    """The group of verbs; it knows their names and one line of help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = getattr(importlib.import_module(VERBS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            raise CallError(
                f"there is no verb {args[0]!r}",
                remedy=f"Did you mean {near[0]!r}?" if near else "headrace --help lists them.",
            )
        if args and args[0] not in _OF_THE_PROJECT:
            set_private_umask()
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items() if line])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace", message="%(version)s")
def cli() -> None:
    """Raw events to live predictions, and from any prediction the way back.

    \b
    A new project:  headrace init DIR --example shop
    Its day:        headrace send | ingest | build | up
    """


cli.params.extend(OPTIONS)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs one verb and ends the process with its exit code.

    0: done. 1: it failed. 2: the call or the project is wrong. 130: interrupted.
    """
    sys.exit(_exit_code(list(sys.argv[1:] if arguments is None else arguments)))


def _exit_code(arguments: list[str]) -> int:
    call = Call()
    before = os.umask(0)
    os.umask(before)
    try:
        # Not standalone: the errors are printed here, all in one way.
        outcome = cli.main(arguments, prog_name="headrace", obj=call, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        verb = error.ctx.command_path if error.ctx else "headrace"
        print_error(call, CallError(error.format_message(), remedy=f"{verb} --help shows how it is called."))
        return CallError.exit_code
    except click.ClickException as error:
        print_error(call, HeadraceError(error.format_message()))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:  # `headrace status | head`
        sys.stderr.close()
        return 1
    except HeadraceError as error:
        print_error(call, error)
        return error.exit_code
    except BaseException as error:
        # A panic in polars' Rust is no Exception. Its class is known by name: polars need not be imported here.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        print_error(call, error)
        return 1
    finally:
        os.umask(before)


if __name__ == "__main__":
    main()
