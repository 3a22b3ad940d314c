"""Where a run of the suite takes place, and the contract that its workers judge by."""

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
    topic="clicks", time="at", key="user", identity=["user", "page"], dedup_within="1h",
    time_formats=["rfc3339", "%Y-%m-%d %H:%M:%S UTC"], coerce=True,
)  # fmt: skip
class FixedClick(Struct):
    """Click, but any price will do: what was refused for its price is admitted when it is replayed."""

    at: datetime
    user: int
    page: Literal["home", "shop", "cart"]
    price: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Setup:
    """Where everything is.

    Attributes:
        disk: the folder that the project lies in; its disk may become full.
        notes: the folder of the journal and of what the producers sent.
        log, catalog: a profile's.
        topic, partitions: the topic.
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
        found = contract_of(FixedClick if fixed else Click)
        assert found is not None
        return attrs.evolve(found, topic=self.topic, partitions=self.partitions)

    def journal(self) -> Report:
        """Writes lines to the journal: a pipe, so that they arrive when disks are full."""
        to = os.open(self.notes / "journal", os.O_WRONLY)

        def report(what: str, **facts: object) -> None:
            os.write(to, json.dumps({"pid": os.getpid(), "what": what, **facts}).encode() + b"\n")

        return report
