"""Pins: tags that keep the inputs of a build until the next build is published."""

from __future__ import annotations

from headrace.lake import Lake, LakeTable
from headrace.tables.plan import RebuildPlan

__all__ = ["pin_inputs", "unpin_inputs", "unpin_older"]


def pin_inputs(lake: Lake, plan: RebuildPlan) -> None:
    """Pins the snapshots that the plan reads."""
    for source in plan.inputs:
        if source.snapshot is not None:
            lake.table(source.name).create_tag(_pin(plan.table, source.snapshot), source.snapshot)


def unpin_older(lake: Lake, plan: RebuildPlan) -> None:
    """Removes the pins of earlier builds of the table."""
    for source in plan.inputs:
        if source.snapshot is None:
            continue
        table: LakeTable = lake.table(source.name)
        for name, snapshot in table.tags().items():
            if name == _pin(plan.table, snapshot) and snapshot != source.snapshot:
                table.remove_tag(name)


def unpin_inputs(lake: Lake, table: str) -> None:
    """Removes the pins on the inputs of a table that is about to be dropped."""
    for name in lake.list_tables():
        input_table = lake.table(name)
        for pin, snapshot in input_table.tags().items():
            if pin == _pin(table, snapshot):
                input_table.remove_tag(pin)


def _pin(table: str, snapshot: int) -> str:
    return f"input-of-{table}-{snapshot}"
