"""The folders and addresses of a run of the suite, and the contract by which its workers judge events."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import attrs
from tests.events.clicks import Click

from headrace import Struct, event
from headrace.config.settings import Settings, make_settings
from headrace.declare.event import Contract, contract_of

__all__ = ["Report", "Setup"]

Report = Callable[..., None]


@event(
    topic="clicks",
    time="at",
    key="user",
    identity=["user", "page"],
    dedup_within="1h",
    time_formats=["rfc3339", "%Y-%m-%d %H:%M:%S UTC"],
    coerce=True,
)
class FixedClick(Struct):
    """Click with any price: events that were refused for their price are admitted when they are replayed."""

    at: datetime
    user: int
    page: Literal["home", "shop", "cart"]
    price: float | None = None
    note: str | None = None


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
