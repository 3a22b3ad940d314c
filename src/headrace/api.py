"""The same verbs for notebooks: headrace.project().table("clean_events").to_polars()."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import CallError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from headrace.flows.build import BuildReport
    from headrace.flows.project.status import Status

__all__ = ["OpenProject", "Rows", "project"]


def project(folder: str | Path | None = None, *, profile: str | None = None) -> OpenProject:
    """The project in `folder`, or around the working folder.

    Raises:
        ProjectError: there is none, its settings are wrong, or there is no such profile.
    """
    return OpenProject(load_settings(None if folder is None else Path(folder), profile))


class Rows:
    """A table of the lake at one snapshot: it stays the same however the table goes on.

    Attributes:
        name: the table.
        snapshot: the snapshot's id.
    """

    def __init__(self, settings: Settings, name: str, snapshot: int | str | None) -> None:
        from headrace import lake

        self.name = name
        self._table = lake.open(settings).table(name)
        found = self._table.current_snapshot() if snapshot is None else self._table.snapshot(snapshot)
        if found is None:
            raise CallError(f"table {name!r} has no rows yet", remedy="headrace build makes it.")
        self.snapshot = found.id

    def lazy(self) -> pl.LazyFrame:
        """The rows, not yet read: filters and column choices reach the files."""
        return self._table.scan(self.snapshot)

    def to_polars(self) -> pl.DataFrame:
        """The rows as a Polars frame."""
        return self.lazy().collect()

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self.to_polars().to_arrow()

    def __repr__(self) -> str:
        return f"<table {self.name} at snapshot {self.snapshot}>"


class OpenProject:
    """A project on a profile.

    Attributes:
        settings: where it runs.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def table(self, name: str, *, snapshot: int | str | None = None) -> Rows:
        """A table, at its newest snapshot, or at one by its id or pin.

        Raises:
            CallError: there is no such table or snapshot.
        """
        return Rows(self.settings, name, snapshot)

    def as_of(self, declared: Any, moment: datetime) -> pl.DataFrame:
        """The rows of a database's table as they were at a moment: one a key, in its order, from its changelog.

        Args:
            declared: the class under @changes, or its topic.
            moment: an aware datetime, by the database's clock.

        Raises:
            CallError: there is no such topic, it holds no changes, or none was ingested; `moment` is naive.
        """
        from headrace import lake
        from headrace.declare.event import contract_of
        from headrace.projects.project import load_project
        from headrace.tables.changelog import as_of
        from headrace.tables.read import read_input

        if moment.tzinfo is None:
            raise CallError(f"{moment} has no time zone", remedy="Give it one: datetime(..., tzinfo=UTC).")
        project = load_project(self.settings, without=("feast",))
        contract = contract_of(declared) or project.contract(declared)
        if not contract.row_key:
            raise CallError(f"topic {contract.topic!r} holds events, not the changes of a table's rows")
        rows = as_of(read_input(project, lake.open(self.settings), contract), contract.row_key, moment)
        return rows.sort(contract.row_key).select(
            one.name for one in msgspec.structs.fields(contract.struct) if not one.name.startswith("_")
        )

    def training_set(self, model: str, *, snapshot: int | str | None = None) -> Rows:
        """A model's training set: labels, and a column `view__feature` for each feature.

        Raises:
            CallError: it was not made yet.
        """
        return Rows(self.settings, f"training_{model}", snapshot)

    def build(self, *targets: str, override: str | None = None) -> BuildReport:
        """headrace build."""
        from headrace.flows.build import build

        return build(self.settings, targets, override=override)

    def status(self) -> Status:
        """headrace status."""
        from headrace.flows.project.status import status

        return status(self.settings)

    def predict(self, model: str, *, explain: bool = False, **values: Any) -> dict[str, Any]:
        """headrace predict: one prediction from the running endpoint."""
        from headrace.flows.models.predict import predict

        return predict(self.settings, model, values, explain=explain)

    def __repr__(self) -> str:
        return f"<project {self.settings.project} on {self.settings.profile_name}: {self.settings.root}>"
