"""The folders and addresses of a run of the suite, and the contract by which its workers judge events."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import msgspec

from headrace import Meta, Struct, event
from headrace.config.settings import Settings, make_settings
from headrace.declare.event import Contract, contract_of

__all__ = ["UNJUDGED", "UNSTORED", "Report", "Setup"]

Report = Callable[..., None]


UNJUDGED, UNSTORED = "the judge fails", "no file can hold it"


class _UnprintableError(Exception):
    """The judge quotes the error of a check, so this one makes the judge fail."""

    def __str__(self) -> str:
        raise RuntimeError("this event cannot be judged")


def _check_note(click: Any) -> None:
    if click.note is not None and UNJUDGED in click.note:
        raise _UnprintableError


def _declare(price: Any) -> type[Struct]:
    """A contract under the same name, because a fix keeps the name."""
    fields = [
        ("at", datetime),
        ("user", int),
        ("page", Literal["home", "shop", "cart"]),
        ("price", price | None, None),
        ("note", str | None, None),
    ]
    methods = {"__post_init__": _check_note}
    kind = msgspec.defstruct("Click", fields, bases=(Struct,), namespace=methods, module=__name__)
    return event(
        topic="clicks",
        time="at",
        key="user",
        identity=["user", "page"],
        dedup_within="1h",
        time_formats=["rfc3339", "%Y-%m-%d %H:%M:%S UTC"],
        coerce=True,
    )(kind)


Click = _declare(Annotated[float, Meta(gt=0)])
FixedClick = _declare(float)
"""Click with any price: events that were refused for their price are admitted when they are replayed."""


@dataclass(frozen=True)
class Setup:
    """The folders and addresses of a run.

    Attributes:
        disk: the folder of the project; its disk may become full.
        notes: the folder of the journal and of the producers' notes.
        log, catalog: the settings `log` and `catalog` of the profile.
        topic, partitions: the topic and its number of log partitions.
    """

    disk: Path
    notes: Path
    log: str
    catalog: str
    topic: str
    partitions: int

    @property
    def settings(self) -> Settings:
        values = {"log": self.log, "catalog": self.catalog}
        return make_settings(self.disk, "scratch", state=self.disk / "state", values=values)

    def contract(self, fixed: bool = False) -> Contract:
        declared = contract_of(FixedClick if fixed else Click)
        assert declared is not None
        return attrs.evolve(declared, topic=self.topic, partitions=self.partitions)

    def open_journal(self) -> Report:
        """A function that writes reports to the journal, a pipe, so that a full disk does not lose them."""
        pipe = os.open(self.notes / "journal", os.O_WRONLY)

        def report(what: str, **facts: object) -> None:
            os.write(pipe, json.dumps({"pid": os.getpid(), "what": what, **facts}).encode() + b"\n")

        return report
