"""Tables: those of a project, and the rows of one at a snapshot, as frames of the usual libraries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.api.listing import Listing
from headrace.config.settings import Settings
from headrace.kernel.counts import plural
from headrace.kernel.errors import CallError
from headrace.kernel.html import html_table
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from headrace.lake import VisibleTables
    from headrace.lake.table_state import TableState

__all__ = ["Rows", "TableListing"]

_SHOWN = 10  # rows in a notebook
_COLUMNS = 40


class Rows:
    """A table of the lake at one snapshot. Later writes to the table do not change it.

    Attributes:
        name: the name of the table.
        snapshot: the id of the snapshot.
        height: how many rows it has.
    """

    def __init__(self, tables: VisibleTables, name: str, at: int | str | datetime | None) -> None:
        self.name = name
        head = tables.snapshot(name, at)
        if head is None:
            raise CallError(f"table {name!r} has no rows yet", remedy="headrace build makes it.")
        self._table = tables.table(name)
        self.snapshot, self.height, self._at = head.id, head.rows, head.at

    def lazy(self) -> pl.LazyFrame:
        """The rows as a lazy frame: filters and column choices reach the files."""
        return self._table.scan(self.snapshot)

    def to_polars(self) -> pl.DataFrame:
        """The rows as a Polars frame."""
        return self.lazy().collect()

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self.to_polars().to_arrow()

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas frame, with Arrow's types: a whole number that may be missing stays one."""
        return self.to_polars().to_pandas(use_pyarrow_extension_array=True)

    def __len__(self) -> int:
        return self.height

    def __repr__(self) -> str:
        return f"<table {self.name} at snapshot {self.snapshot}: {plural(self.height, 'row')}>"

    def _repr_html_(self) -> str:
        """The first rows, for a notebook."""
        schema = self.lazy().collect_schema()
        names = schema.names()[:_COLUMNS]
        rows = self.lazy().select(names).head(_SHOWN).collect()
        notes = [f"columns: {', '.join(f'{name} {schema[name]}' for name in names)}"]
        if len(schema) > len(names):
            notes.append(plural(len(schema) - len(names), "more column"))
        title = f"{self.name}: {plural(self.height, 'row')}, snapshot {self.snapshot} of {self._at:%F %T} UTC"
        return html_table(title, names, rows.iter_rows(), notes=notes)


class TableListing(Listing[Rows]):
    """The tables of a project that readers see; a call opens several of them at one moment."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            "table",
            lambda: list(_read_states(settings)),
            lambda name: self(name)[0],
            remedy="headrace ingest and headrace build make them.",
            describe=lambda: _describe_tables(settings),
        )
        self._settings = settings

    def __call__(self, *names: str, at: int | str | datetime | None = None) -> list[Rows]:
        """Opens tables as readers see them at one moment.

        Args:
            names: the names of the tables.
            at: as for `OpenProject.table`: a moment, or a tag that all of them have.

        Raises:
            CallError: as `OpenProject.table`.
        """
        with Workspace(self._settings) as workspace:
            return [Rows(workspace.visible, name, at) for name in names]


def _read_states(settings: Settings) -> dict[str, TableState]:
    from headrace.lake.table_state import read_table_states
    from headrace.lake.visible import TABLE

    with Workspace(settings) as workspace:
        newest = read_table_states(workspace.lake)
        newest.pop(TABLE, None)
        states, _ = workspace.visible.states(newest)
    return {name: state for name, state in states.items() if state.snapshot is not None}


def _describe_tables(settings: Settings) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    rows = [
        (name, f"{state.rows:,}", None if state.at is None else f"{state.at:%F %T}", state.snapshot)
        for name, state in _read_states(settings).items()
    ]
    return ("table", "rows", "written, UTC", "snapshot"), rows
