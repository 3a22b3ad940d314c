"""Why a stage is stale, and the parameters whose change makes it stale."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct

from headrace.code.source_files import PARAMS_FILE
from headrace.flows.build.pointers import CODE
from headrace.flows.build.project_code import diff_pieces

__all__ = ["LOCK", "Parameter", "ReasonKind", "StaleReason", "user_parameters"]

ReasonKind = Literal["new", "code", "input", "parameter", "contract", "lock", "output", "upstream", "state"]


class StaleReason(Struct, frozen=True):
    """One reason why a build would run a stage.

    Attributes:
        kind: the kind of reason.
        what: what has changed, in words.
    """

    kind: ReasonKind
    what: str


class Parameter(Struct, frozen=True):
    """An entry of pointers/code.json or of the project's params.yaml that a stage depends on.

    Attributes:
        key: its dotted name there; "" for the whole file.
        kind: the kind of reason for a stage whose parameter changed.
        what: what changed, in words; "": name the pieces that differ.
        file: the file, relative to the project.
    """

    key: str
    kind: ReasonKind
    what: str = ""
    file: str = CODE

    def reasons(self, before: Any, after: Any) -> list[StaleReason]:
        """Why a stage that last ran with the value `before` is stale now; empty if it is not."""
        if before == after:
            return []
        if self.what:
            return [StaleReason(self.kind, self.what)]
        return [StaleReason(self.kind, piece) for piece in diff_pieces(before or [], after)]


def user_parameters(names: Iterable[str]) -> tuple[Parameter, ...]:
    """The entries of params.yaml with these names, as parameters of a stage."""
    return tuple(
        Parameter(name, "parameter", f"{PARAMS_FILE}: {name or 'an entry'}", PARAMS_FILE) for name in names
    )


LOCK = Parameter("lock", "lock", "the project's lock")
"""What every stage that runs the project's code depends on."""
