"""The same verbs for notebooks: headrace.project().table("clean_events").to_polars()."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import CallError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from headrace.flows.build import BuildReport
    from headrace.flows.status import Status

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
        found = self._table.head() if snapshot is None else self._table.snapshot(snapshot)
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
        from headrace.flows.status import status

        return status(self.settings)

    def predict(self, model: str, *, explain: bool = False, **values: Any) -> dict[str, Any]:
        """headrace predict: one prediction from the running endpoint."""
        from headrace.flows.predict import predict

        return predict(self.settings, model, values, explain=explain)

    def __repr__(self) -> str:
        return f"<project {self.settings.project} on {self.settings.profile_name}: {self.settings.root}>"
