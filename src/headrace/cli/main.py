"""headrace: the command line. Each command is imported when it is called, so that --help is fast."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from keyword import iskeyword

import click

from headrace.cli.call import OPTIONS, Call, print_error
from headrace.cli.live import show_live
from headrace.kernel.errors import CallError, HeadraceError
from headrace.kernel.private import set_private_umask

__all__ = ["COMMANDS", "LazyGroup", "cli", "main"]

# command: (the module that has a click command of that name, one line of help). Without a line it is hidden.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("headrace.cli.demo", "Run an example end to end in a scratch folder."),
    "init": ("headrace.cli.init", "Make a new project."),
    "doctor": ("headrace.cli.doctor", "Check this machine and the profile's services."),
    "send": ("headrace.cli.send", "Put the events of a file on a topic."),
    "ingest": ("headrace.cli.ingest", "Move events from the log into tables and the online state."),
    "capture": ("headrace.cli.capture", "Put the changes of database tables on the log."),
    "quarantine": ("headrace.cli.quarantine", "Show refused events, and replay them after a fix."),
    "build": ("headrace.cli.build", "Bring tables, features and models up to date."),
    "run-stage": ("headrace.cli.run_stage", ""),
    "status": ("headrace.cli.status", "Show what is stale and why, what runs, and how fresh it is."),
    "graph": ("headrace.cli.graph", "Draw the project: topics, tables, views, models, releases."),
    "up": ("headrace.cli.up", "Answer predictions, collect and ingest events, until Ctrl-C."),
    "predict": ("headrace.cli.predict", "Ask a running endpoint for one prediction."),
    "score": ("headrace.cli.score", "Predict the rows of a file, with features as of a moment."),
    "release": ("headrace.cli.release", "Divide a model's traffic among its versions."),
    "canary": ("headrace.cli.canary", "Show how a canary does, and what will be done with it."),
    "rollback": ("headrace.cli.rollback", "Go back to the previous release."),
    "deploy": ("headrace.cli.deploy", "Serve MLflow models, each on the Python that it needs."),
    "outcomes": ("headrace.cli.outcomes", "Compare predictions with what really happened."),
    "shadows": ("headrace.cli.shadows", "Compare shadows with what clients received."),
    "backtest": ("headrace.cli.backtest", "Answer logged requests by another version, and compare."),
    "why": ("headrace.cli.why", "Trace a prediction to its raw events, or an event to its verdicts."),
    "lineage": ("headrace.cli.lineage", "Show what a model or table was made from, or the newest runs."),
    "check": ("headrace.cli.check", "Check that serving equals training, and that contracts still fit."),
    "export": ("headrace.cli.export", "Write files that another tool needs to run the project."),
    "try": ("headrace.cli.try_table", "Run a table's function on a partition, without publishing."),
    "test": ("headrace.cli.test", "Record a test of a table from its real rows."),
    "table-versions": ("headrace.cli.table_tags", "List a table's snapshots and their tags."),
    "tag-table": ("headrace.cli.table_tags", "Give a table's snapshot a name, so that it is kept."),
    "untag-table": ("headrace.cli.table_tags", "Remove such a name."),
    "drop-table": ("headrace.cli.drop_table", "Delete a table that a build made."),
    "clean": ("headrace.cli.clean", "Delete what the project made on this machine, after asking."),
}

_OF_THE_PROJECT = {"demo", "init", "build", "run-stage", "export", "test"}
"""Commands that write files of the project itself, which other users of a group may read."""


class LazyGroup(click.Group):
    """The group of all commands. It knows their names and one line of help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_") + ("_" if iskeyword(cmd_name) else "")
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            raise CallError(
                f"{args[0]!r} is not a command of headrace",
                remedy=f"Did you mean {near[0]!r}?" if near else "headrace --help lists them.",
            )
        if args and args[0] not in _OF_THE_PROJECT:
            set_private_umask()
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items() if line])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace", message="%(version)s")
def cli() -> None:
    """Raw events to live predictions, and from any prediction back to its events.

    \b
    Make a project:  headrace init DIR --example shop
    Then run:        headrace send, ingest, build, up
    """


cli.params.extend(OPTIONS)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs one command and ends the process with its exit code.

    0: success. 1: failure. 2: the call or the project is wrong. 130: interrupted.
    """
    sys.exit(_exit_code(list(sys.argv[1:] if arguments is None else arguments)))


def _exit_code(arguments: list[str]) -> int:
    call = Call()
    before = os.umask(0)
    os.umask(before)
    try:
        # Not standalone, so that all errors are printed here in the same way.
        outcome = cli.main(arguments, prog_name="headrace", obj=call, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "headrace"
        print_error(call, CallError(error.format_message(), remedy=f"See {path} --help."))
        return CallError.exit_code
    except click.ClickException as error:
        print_error(call, HeadraceError(error.format_message()))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        show_live("")
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:  # `headrace status | head`
        sys.stderr.close()
        return 1
    except HeadraceError as error:
        print_error(call, error)
        return error.exit_code
    except BaseException as error:
        # A panic in polars' Rust is not an Exception. Recognised by name, so that polars is not imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        print_error(call, error)
        return 1
    finally:
        os.umask(before)


if __name__ == "__main__":
    main()
