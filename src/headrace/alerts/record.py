"""Alerts: what is wrong with the events of a topic, as changes on topic `headrace.alerts`.

An alert is raised once, changed when its severity does, and resolved when it is over. The topic is its
whole state: whoever decides reads it first. The changes of one reason are numbered, and of two that
took the same number at the same time (two workers that saw the same rates) the one that came first on
the log counts, for whoever reads it and in its table.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from headrace.declare.event import Contract, event
from headrace.kernel.ids import new_id
from headrace.kernel.time import format_duration, now

if TYPE_CHECKING:
    from headrace.events.ingest.rates import Rate, Reason, Severity
    from headrace.lake import Lake
    from headrace.log import Log

__all__ = ["TOPIC", "Alert", "Changes", "change", "from_table", "open_alerts"]

TOPIC = "headrace.alerts"
TABLE = "headrace_alerts"
_BATCH = 1_000

About = tuple[str, str, str | None]


@event(
    topic=TOPIC, time="at", key="topic", identity=["topic", "code", "field", "number"], dedup_within="365d",
    alerts=None,
)  # fmt: skip
class Alert(Struct, frozen=True):
    """One change of an alert.

    Attributes:
        id: of this change, a UUIDv7.
        alert: the id of the change that raised it.
        number: of the changes of this reason, from 1 on.
        at: when it was decided.
        topic, code, field: what it is about: events of the topic that are refused for this reason.
        state: `raised`, `changed` (its severity) or `resolved`.
        severity: `warning` or `critical`; of a resolved one, what it was.
        refused, events, share: of the window, when it was decided; the share is 0 to 1.
        before: the share in the time before the window; None: too few events to say.
        window: how long the window is, in seconds.
        why: the same in words.
    """

    id: str
    alert: str
    number: int
    at: datetime
    topic: str
    code: str
    field: str | None
    state: Literal["raised", "changed", "resolved"]
    severity: Literal["warning", "critical"]
    refused: int
    events: int
    share: float
    before: float | None
    window: float
    why: str

    @property
    def about(self) -> About:
        """What it is about."""
        return self.topic, self.code, self.field


def change(
    contract: Contract, reason: Reason, rate: Rate, severity: Severity | None, last: Alert | None
) -> Alert:
    """The change that brings an alert to this severity (None: it is over). `last` is the one before."""
    limits = contract.alerts
    assert limits is not None
    old = last if last is not None and last.state != "resolved" else None
    code, field = reason
    what = f"{code} ({field})" if field else code
    why = f"{rate.share:.2%} of {rate.events:,} events in {format_duration(limits.window)} refused as {what}"
    if rate.before is not None:
        why += f"; {rate.before:.2%} in the {format_duration(limits.before)} before"
    made = new_id()
    return Alert(
        id=made,
        alert=old.alert if old else made,
        number=last.number + 1 if last else 1,
        at=now(),
        topic=contract.topic,
        code=code,
        field=field,
        state="raised" if old is None else "resolved" if severity is None else "changed",
        severity=severity or (old.severity if old else "warning"),
        refused=rate.refused,
        events=rate.events,
        share=rate.share,
        before=rate.before,
        window=limits.window.total_seconds(),
        why=why,
    )


class Changes:
    """Follows the topic.

    Args:
        log: where it is.
        known: the last change of each reason, as far as it is known otherwise (`from_table`).

    Attributes:
        last: what an alert is about → its last change, as of the last poll.
    """

    def __init__(self, log: Log, known: dict[About, Alert] | None = None) -> None:
        self._log = log
        self._offsets: dict[int, int] = {}
        self._identity: str | None = None
        self._decode = msgspec.json.Decoder(Alert).decode
        self.last: dict[About, Alert] = dict(known or {})

    @property
    def open(self) -> list[Alert]:
        """The last change of each alert that is not over, the oldest first."""
        return sorted((one for one in self.last.values() if one.state != "resolved"), key=lambda one: one.at)

    def poll(self) -> list[tuple[int, int, Alert]]:
        """The changes since the last poll, each with its log partition and offset. One that came second
        with its number is passed over, and so is what is no alert: ingest keeps it in quarantine."""
        if TOPIC not in self._log.topics():
            return []
        identity = self._log.identity(TOPIC)
        if identity != self._identity:
            if self._identity is not None:  # it was made again: numbers and offsets start anew
                self.last = {}
            self._identity = identity
            self._offsets = dict.fromkeys(range(self._log.partitions(TOPIC)), 0)
        found: list[tuple[int, int, Alert]] = []
        while True:
            batch = self._log.read(TOPIC, self._offsets, _BATCH)
            if not batch.values:
                return found
            self._offsets.update(batch.next)
            places = zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True)
            for (partition, offset), value in zip(places, batch.values, strict=True):
                try:
                    one = self._decode(value)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    continue
                last = self.last.get(one.about)
                if last is None or one.number > last.number:
                    self.last[one.about] = one
                    found.append((partition, offset, one))


def from_table(lake: Lake) -> dict[About, Alert]:
    """The last change of each reason that the topic's table holds: what the log may have forgotten."""
    import polars as pl

    if not lake.table_exists(TABLE):
        return {}
    rows = (
        lake.table(TABLE)
        .scan()
        .filter(pl.col("_valid"))
        .sort("number")
        .unique(["topic", "code", "field"], keep="last", maintain_order=True)
        .select(Alert.__struct_fields__)
        .collect()
    )
    found = [msgspec.convert(row, Alert) for row in rows.iter_rows(named=True)]
    return {one.about: one for one in found}


def open_alerts(log: Log, lake: Lake) -> list[Alert]:
    """The alerts that are not over, each as it last changed, the oldest first."""
    changes = Changes(log, from_table(lake))
    changes.poll()
    return changes.open
