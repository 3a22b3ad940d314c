"""Keeps the current rows of a database's table, updated by the changes that arrived since the last build.

One commit writes the rows and the position in the changelog that they were made from (the log's offsets, which
ingest stores with each row). So a build that is killed leaves the old rows or the new ones, and the next build
continues from there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.declare.table import Table
from headrace.kernel.properties import CHANGELOG, CODE
from headrace.kernel.time import from_micros
from headrace.lake import Lake, LakeTable, Snapshot
from headrace.projects.project import Project
from headrace.tables.changelog import (
    NO_CUTS,
    Cuts,
    add_moved_keys,
    find_cuts,
    has_unsent,
    is_moved,
    latest_changes,
    survivors,
)
from headrace.tables.order import COLUMNS, ERA, Era, find_eras, place
from headrace.tables.plan import RebuildPlan
from headrace.tables.read import read_input

__all__ = ["keep_current"]

_logger = logging.getLogger(__name__)


class _Progress(msgspec.Struct, frozen=True):
    """The position in the changelog that a table of current rows was made from.

    Attributes:
        offsets: log partition → the first offset of the changelog that is not in the table yet.
        eras: where the database's log began again (tables.order.find_eras).
        lsn: the highest LSN of the last era.
        cuts: the last changes that removed many rows (changelog.Cuts).
    """

    offsets: dict[int, int] = {}
    eras: list[Era] = []
    lsn: int = -1
    cuts: Cuts = NO_CUTS


def keep_current(
    project: Project, lake: Lake, table: Table, plan: RebuildPlan, properties: Mapping[str, str]
) -> tuple[Snapshot, pa.Schema]:
    """Updates the table to the changelog's snapshot that the plan names, in one commit.

    Args:
        project, lake: the project and the lake of the table.
        table: the table, declared by declare.changes.current.
        plan: its plan (tables.plan.plan_rebuild). If the code or the contract has changed, or the table was
            never made, it is made from the whole changelog.
        properties: further properties that the commit sets.

    Raises:
        Conflict: another build has committed to the table in the meantime.
        Unavailable: the catalog is locked or cannot be reached.
    """
    contract = table.reads[0]
    assert isinstance(contract, Contract)
    changelog = read_input(project, lake, contract, plan.inputs[0].snapshot)
    stored = lake.table(table.name) if lake.table_exists(table.name) else None
    recorded = stored.property(CHANGELOG) if stored is not None else None
    progress = _Progress()
    if recorded is not None and plan.expect[CODE] == properties[CODE]:
        progress = msgspec.json.decode(recorded, type=_Progress)
    rows, after = _update_rows(changelog, contract, stored, progress)
    for era in after.eras:
        if era not in progress.eras:
            _logger.warning(
                "%s: the database's log begins again at %s (another server, or a restore); its positions are"
                " not compared with earlier ones",
                contract.topic,
                from_micros(era.time).isoformat(),
            )
    written = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    stored = lake.ensure(table.name, written.schema, exact=True)
    facts = {**properties, CHANGELOG: msgspec.json.encode(after).decode()}
    snapshot = stored.overwrite(
        written, facts=facts, properties=facts, expect={**plan.expect, CHANGELOG: recorded}
    )
    return snapshot, written.schema


def _update_rows(
    changelog: pl.LazyFrame, contract: Contract, stored: LakeTable | None, progress: _Progress
) -> tuple[pl.DataFrame, _Progress]:
    """The current rows, and the position in the changelog that they are made from."""
    key = list(contract.row_key)
    fresh = changelog.filter(_is_from(progress.offsets)).collect()
    if stored is None or not progress.offsets:
        return _build_whole(fresh, key, find_eras(fresh, key))
    if len(fresh.filter(pl.col("_op") == "r", pl.col("_first_offset").is_not_null())):
        changes = changelog.collect()  # a replayed read changes which rows the snapshot removed
        return _build_whole(changes, key, find_eras(changes, key))
    rows_before = stored.scan().select(fresh.columns).collect()
    placed = place(fresh, progress.eras)
    # The effect of a late change on a key needs the key's whole history: the change may be older than the
    # delete that removed the row, or have a value that a newer change lacks.
    positions = place(rows_before, progress.eras).select(*key, era_before=ERA, lsn_before="_lsn")
    before = pl.col("era_before").fill_null(len(progress.eras)), pl.col("lsn_before").fill_null(progress.lsn)
    is_lower = (pl.col(ERA) < before[0]) | ((pl.col(ERA) == before[0]) & (pl.col("_lsn") <= before[1]))
    lower = placed.join(positions, on=key, how="left").filter(is_lower)
    late = [lower.select(key).drop_nulls().unique()]
    # So does the effect of an update of a key, whose delete may also arrive after its insert.
    late.append(fresh.filter(is_moved()).select(key))
    if len(fresh.filter(pl.col("_op") == "d")):
        late.append(rows_before.filter(has_unsent()).select(key))
    redone = pl.concat(late).unique()
    if len(lower) or find_eras(fresh, key):
        eras = find_eras(changelog.select(*key, *COLUMNS).collect(), key)
        if eras != progress.eras:  # the order of rows already written has changed
            return _build_whole(changelog.collect(), key, eras)
    cuts = progress.cuts.later(find_cuts(fresh, progress.eras, progress.cuts))
    highest = max(progress.lsn, _highest(placed.filter(pl.col(ERA) == len(progress.eras))))
    after = _Progress({**progress.offsets, **_offsets(fresh)}, progress.eras, highest, cuts)
    parts = [rows_before.join(fresh, on=key, how="semi"), fresh]
    kept = rows_before.join(fresh, on=key, how="anti")
    if len(redone):
        redone = add_moved_keys(redone, changelog)
        kept, *parts = (part.join(redone, on=key, how="anti") for part in (kept, *parts))
        parts.append(changelog.join(redone.lazy(), on=key, how="semi").collect())
    rows = pl.concat([kept, latest_changes(pl.concat(parts), key, progress.eras)])
    return survivors(rows, cuts, progress.eras), after


def _build_whole(changes: pl.DataFrame, key: list[str], eras: list[Era]) -> tuple[pl.DataFrame, _Progress]:
    """Builds the current rows from a whole changelog."""
    cuts = find_cuts(changes, eras)
    highest = _highest(place(changes, eras).filter(pl.col(ERA) == len(eras)))
    rows = survivors(latest_changes(changes, key, eras), cuts, eras)
    return rows, _Progress(_offsets(changes), eras, highest, cuts)


def _is_from(offsets: Mapping[int, int]) -> pl.Expr:
    """Whether a row is at or after the offset of its log partition, or its partition has no offset here."""
    partition, offset = pl.col("_log_partition"), pl.col("_log_offset")
    is_new = ~partition.is_in(list(offsets)) if offsets else pl.lit(True)
    for number, first in offsets.items():
        is_new |= (partition == number) & (offset >= first)
    return is_new


def _offsets(rows: pl.DataFrame) -> dict[int, int]:
    last: Any = rows.group_by("_log_partition").agg(pl.col("_log_offset").max() + 1).rows()
    return dict(last)


def _highest(rows: pl.DataFrame) -> int:
    highest: int | None = rows.select(pl.col("_lsn").max()).item()
    return -1 if highest is None else highest
