"""The errors that Headrace raises, as one tree.

HeadraceError                 something failed                                exit 1
├── ProjectError              the project or its configuration is wrong       exit 2
├── CallError                 the call is wrong: no such topic, model, file   exit 2
├── Unavailable               a service, a port or a lock is not available    exit 1, may be tried again
│   └── NotAppended           and nothing was appended, for certain           exit 1, may be tried again
├── Conflict                  another writer moved the position first         exit 1, may be tried again
└── Refused                   a rule forbids it: audit, gate, contract        exit 1
    └── RecordsRefused        a topic does not accept a record                exit 1
        └── TooLarge          a record is larger than its topic accepts       exit 1

Each says what went wrong, where, and what to do about it. The command line and the HTTP servers decide how to
show an error; no error depends on a transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

__all__ = [
    "CallError",
    "Conflict",
    "HeadraceError",
    "NotAppended",
    "ProjectError",
    "RecordsRefused",
    "Refused",
    "TooLarge",
    "Unavailable",
]


class HeadraceError(Exception):
    """Something failed.

    Args:
        what: one sentence that says what went wrong.
        where: the file, setting, table or address that it concerns (`headrace.toml: profile.local.log`).
        remedy: what the user can do about it.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.remedy is None else f"{text}\n  {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default reduce, and these errors cross processes.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(kind: type[HeadraceError], what: str, where: str | None, remedy: str | None) -> HeadraceError:
    return kind(what, where=where, remedy=remedy)


class ProjectError(HeadraceError):
    """The project or its configuration is wrong."""

    exit_code = 2


class CallError(HeadraceError):
    """The call is wrong: it names something that does not exist, or is not valid."""

    exit_code = 2


class Unavailable(HeadraceError):
    """A service, a port, a file lock or an optional package is not available now."""

    retryable = True


class NotAppended(Unavailable):
    """The log is not available, and it is certain that none of the records was appended."""


class Conflict(HeadraceError):
    """Another writer moved the position first; this attempt had no effect."""

    retryable = True


class Refused(HeadraceError):
    """A rule forbids it: an audit, a gate, a contract, a digest."""


class RecordsRefused(Refused):
    """A topic does not accept some of the records of an append; none was appended.

    Args:
        what, where, remedy: see HeadraceError.
        places: the places of these records in the append, counted from 0.
    """

    def __init__(
        self, what: str, *, where: str | None = None, remedy: str | None = None, places: Sequence[int] = ()
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.places = tuple(places)

    def __reduce__(self) -> tuple[object, ...]:
        return (partial(type(self), where=self.where, remedy=self.remedy, places=self.places), (self.what,))


class TooLarge(RecordsRefused):
    """Records are larger than their topic accepts. A retry succeeds only after the topic's limit is raised."""
