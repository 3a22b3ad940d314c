"""The table of a database table's current rows, kept from its changelog: what came new, not all of it.

One commit puts the rows in place with how far the changelog was read (offsets of the log, as ingest
stored them with each row), so a build that is killed leaves the old rows or the new ones and the next
goes on from there.
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
from headrace.tables.changelog import NO_CUTS, Cuts, find_cuts, latest_changes, survivors
from headrace.tables.order import COLUMNS, ERA, Era, find_eras, place
from headrace.tables.plan import RebuildPlan
from headrace.tables.read import read_input

__all__ = ["keep_current"]

_logger = logging.getLogger(__name__)


class _Stands(msgspec.Struct, frozen=True):
    """What a table of current rows was made from.

    Attributes:
        offsets: log partition → the first offset of the changelog that is not in it.
        eras: where the database's log began anew (tables.order.find_eras).
        lsn: the highest LSN of the last era.
        cuts: what took rows away (changelog.Cuts).
    """

    offsets: dict[int, int] = {}
    eras: list[Era] = []
    lsn: int = -1
    cuts: Cuts = NO_CUTS


def keep_current(
    project: Project, lake: Lake, table: Table, plan: RebuildPlan, properties: Mapping[str, str]
) -> tuple[Snapshot, pa.Schema]:
    """Brings the table up to the changelog's snapshot that the plan names, in one commit.

    Args:
        project, lake: where it lives.
        table: as declare.changes.current declares it.
        plan: `tables.plan.plan_rebuild` of it. Where its code, or its contract, is another one since, or it
            was never made, it is made from the whole changelog.
        properties: what the commit sets beside its own.

    Raises:
        Conflict: another build of the table was faster.
        Unavailable: the catalog is locked or away.
    """
    contract = table.reads[0]
    assert isinstance(contract, Contract)
    changelog = read_input(project, lake, contract, plan.inputs[0].snapshot)
    made = lake.table(table.name) if lake.table_exists(table.name) else None
    told = made.property(CHANGELOG) if made is not None else None
    stands = _Stands()
    if told is not None and plan.expect[CODE] == properties[CODE]:
        stands = msgspec.json.decode(told, type=_Stands)
    rows, after = _kept(changelog, contract, made, stands)
    for era in after.eras:
        if era not in stands.eras:
            _logger.warning(
                "%s: from %s on the database's log positions begin anew (another server, or a restore);"
                " they are not compared with those before",
                contract.topic,
                from_micros(era.time).isoformat(),
            )
    written = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    made = lake.ensure(table.name, written.schema, exact=True)
    said = {**properties, CHANGELOG: msgspec.json.encode(after).decode()}
    snapshot = made.overwrite(written, facts=said, properties=said, expect={**plan.expect, CHANGELOG: told})
    return snapshot, written.schema


def _kept(
    changelog: pl.LazyFrame, contract: Contract, made: LakeTable | None, stands: _Stands
) -> tuple[pl.DataFrame, _Stands]:
    """The current rows, and what they are made from."""
    key = list(contract.row_key)
    fresh = changelog.filter(_from(stands.offsets)).collect()
    if made is None or not stands.offsets:
        return _made_whole(fresh, key, find_eras(fresh, key))
    if len(fresh.filter(pl.col("_op") == "r", pl.col("_first_offset").is_not_null())):
        changes = changelog.collect()  # what a snapshot took away is seen anew
        return _made_whole(changes, key, find_eras(changes, key))
    held = made.scan().select(fresh.columns).collect()
    placed = place(fresh, stands.eras)
    # Only its whole history tells what becomes of a key by a change that came late: it may be older than
    # the delete that took the row away, or have had a value that a newer one was sent without.
    stood = place(held, stands.eras).select(*key, stood_era=ERA, stood="_lsn")
    before = pl.col("stood_era").fill_null(len(stands.eras)), pl.col("stood").fill_null(stands.lsn)
    is_lower = (pl.col(ERA) < before[0]) | ((pl.col(ERA) == before[0]) & (pl.col("_lsn") <= before[1]))
    lower = placed.join(stood, on=key, how="left").filter(is_lower)
    late = lower.select(key).drop_nulls().unique()
    if len(lower) or find_eras(fresh, key):
        eras = find_eras(changelog.select(*key, *COLUMNS).collect(), key)
        if eras != stands.eras:  # what stood by its LSN stands elsewhere now
            return _made_whole(changelog.collect(), key, eras)
    cuts = stands.cuts.later(find_cuts(fresh, stands.eras, stands.cuts))
    highest = max(stands.lsn, _highest(placed.filter(pl.col(ERA) == len(stands.eras))))
    after = _Stands({**stands.offsets, **_offsets(fresh)}, stands.eras, highest, cuts)
    known = [
        held.join(fresh, on=key, how="semi").join(late, on=key, how="anti"),
        fresh.join(late, on=key, how="anti"),
    ]
    if len(late):
        known.append(changelog.join(late.lazy(), on=key, how="semi").collect())
    rows = pl.concat([held.join(fresh, on=key, how="anti"), latest_changes(pl.concat(known), key, stands.eras)])
    return survivors(rows, cuts, stands.eras), after


def _made_whole(changes: pl.DataFrame, key: list[str], eras: list[Era]) -> tuple[pl.DataFrame, _Stands]:
    """The current rows of a whole changelog."""
    cuts = find_cuts(changes, eras)
    highest = _highest(place(changes, eras).filter(pl.col(ERA) == len(eras)))
    rows = survivors(latest_changes(changes, key, eras), cuts, eras)
    return rows, _Stands(_offsets(changes), eras, highest, cuts)


def _from(offsets: Mapping[int, int]) -> pl.Expr:
    """The rows at these offsets and after, of each log partition."""
    partition, offset = pl.col("_log_partition"), pl.col("_log_offset")
    wanted = ~partition.is_in(list(offsets)) if offsets else pl.lit(True)
    for one, first in offsets.items():
        wanted |= (partition == one) & (offset >= first)
    return wanted


def _offsets(rows: pl.DataFrame) -> dict[int, int]:
    last: Any = rows.group_by("_log_partition").agg(pl.col("_log_offset").max() + 1).rows()
    return dict(last)


def _highest(rows: pl.DataFrame) -> int:
    highest: int | None = rows.select(pl.col("_lsn").max()).item()
    return -1 if highest is None else highest
