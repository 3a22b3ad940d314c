"""Target: a tool that a project can be exported for."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

__all__ = ["Export", "Option", "Target"]


class Option(Struct, frozen=True):
    """One option of a target: `--NAME VALUE`, or a flag.

    Attributes:
        name: the name without dashes; `write` takes it as a keyword.
        help: one sentence.
        metavar: the name of the value in --help; None: the option is a flag.
    """

    name: str
    help: str
    metavar: str | None = None


class Export(Struct, frozen=True):
    """What a target wrote.

    Attributes:
        text: the text of the file.
        summary: its content in a few words.
    """

    text: str
    summary: str


class Target(Struct, frozen=True):
    """A tool that a project can be exported for.

    Attributes:
        name: the tool's name, in lower case.
        help: what is written. The list of targets shows the first line.
        example: a command line that --help shows.
        write: called with the settings and one keyword per option; an option that is not given is None, a
            flag False. Raises HeadraceError if the project has nothing for this tool.
        options: the options of this target, in addition to those of every target.
    """

    name: str
    help: str
    example: str
    write: Callable[..., Export]
    options: tuple[Option, ...] = ()
