"""A topic of database changes, its changelog and its table of current rows, in a scratch folder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import polars as pl
from tests.events.customers import NOON, Customer

from headrace import log
from headrace.config.settings import make_settings
from headrace.declare.changes import current
from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.features.offline.point_in_time import join_as_of
from headrace.features.plan import AsOfView, PlanField
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.lake import open as open_lake
from headrace.projects.project import Project
from headrace.tables.build import build_table
from headrace.tables.changelog import as_of
from headrace.tables.read import read_input

__all__ = ["COLUMNS", "Shop"]

COLUMNS = ("id", "name", "balance")


class Shop:
    """A topic of changes, its changelog and its table of current rows, in a scratch folder."""

    def __init__(self, root: Path) -> None:
        settings = make_settings(root, "scratch", state=root / "state")
        contract = contract_of(Customer)
        assert contract is not None
        self.contract = contract
        self.table = current(Customer)
        self.project = Project(
            settings, {contract.topic: contract}, {}, {self.table.name: self.table}, {}, {}, ()
        )
        self.log = log.open(settings.log.url)
        self.lake: Lake = open_lake(settings)
        self.log.create(contract.topic)

    def ingest(self, *raw: bytes, headers: dict[str, bytes] | None = None) -> None:
        self.log.append(self.contract.topic, list(raw), headers=[headers] * len(raw))
        Ingest(self.contract, self.log, self.lake).run(True, threading.Event())

    def build(self, code: str = "code") -> pl.DataFrame:
        build_table(self.project, self.lake, self.table, code=code)
        return self.lake.table(self.table.name).scan().sort("id").collect()

    def rows(self) -> list[tuple[Any, ...]]:
        return self.build().select(COLUMNS).rows()

    def changelog(self) -> pl.LazyFrame:
        return read_input(self.project, self.lake, self.contract)

    def rows_at(self, at: int) -> list[tuple[Any, ...]]:
        moment = from_micros(NOON + at * 1_000_000)
        return as_of(self.changelog(), self.contract.row_key, moment).sort("id").select(COLUMNS).rows()

    def names_joined_at(self, at: int, *ids: int) -> list[Any]:
        view = AsOfView("v", ("id",), self.contract.table, "_changed_at", (PlanField("name", "string"),))
        labels = pl.DataFrame({"id": ids, "event_timestamp": [from_micros(NOON + at * 1_000_000)] * len(ids)})
        return join_as_of(labels, view, self.changelog(), strict=False)["name"].to_list()
