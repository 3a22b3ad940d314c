"""Target: one form in which a project is written for another tool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Export", "Option", "Target"]


@dataclass(frozen=True)
class Option:
    """One option of a target: `--NAME VALUE`, or a flag.

    Attributes:
        name: without dashes; also the keyword that `write` takes.
        help: one sentence.
        metavar: how --help names the value; None: it is a flag.
    """

    name: str
    help: str
    metavar: str | None = None


@dataclass(frozen=True)
class Export:
    """What a target wrote.

    Attributes:
        text: the file's text.
        summary: what is in it, in a few words.
    """

    text: str
    summary: str


@dataclass(frozen=True)
class Target:
    """A tool that a project can be written for.

    Attributes:
        name: the tool's name, in lower case.
        help: what is written; the first line stands in the list of targets.
        example: a command line that --help shows.
        write: called with the settings and a keyword for each option; an option that is not given is None, a
            flag False. It raises HeadraceError where the project has nothing for this tool.
        options: beside those of every target.
    """

    name: str
    help: str
    example: str
    write: Callable[..., Export]
    options: tuple[Option, ...] = ()
