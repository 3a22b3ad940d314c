"""Alerts as records: each change of an alert is an event on topic `headrace.alerts`.

An alert is raised once, changed when its severity changes, and resolved when it is over. The topic holds the
whole state of all alerts, so a process that decides on a change first reads the topic to its end. The changes
of one subject and reason are numbered. If two processes append the same number at the same time, the first on
the log counts, for every reader of the topic and in its table.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from headrace.declare.event import event
from headrace.log.follow import TopicFollower, TopicRecord

if TYPE_CHECKING:
    from headrace.lake import Lake
    from headrace.log import Log

__all__ = [
    "TABLE",
    "TOPIC",
    "Alert",
    "AlertFollower",
    "AlertKey",
    "Severity",
    "has_forgotten",
    "open_alerts",
    "read_table",
]

TOPIC = "headrace.alerts"
TABLE = "headrace_alerts"

Severity = Literal["warning", "critical"]
AlertKey = tuple[str, str, str]
"""Source, subject and reason: what makes two alerts the same."""


@event(
    topic=TOPIC,
    time="at",
    key="subject",
    identity=["source", "subject", "reason", "number"],
    dedup_within="365d",
    alerts=None,
)
class Alert(Struct, frozen=True):
    """One change of an alert.

    Attributes:
        id: the id of this change, a UUIDv7.
        alert: the id of the change that raised the alert.
        number: the number of this change among those of its source, subject and reason, from 1 on.
        at: when the change was decided.
        source: the name of the AlertSource that found it, such as `refusals`.
        subject: the thing that the alert is about, such as a topic.
        reason: what is wrong with the subject, in a few words that stay the same.
        state: `raised`, `changed` (its severity) or `resolved`.
        severity: `warning` or `critical`; for a resolved alert its last severity.
        why: what is wrong, in words, with figures.
        look: the command that shows more.
        facts: the figures behind the decision, and further facts of the source; by name.
    """

    id: str
    alert: str
    number: int
    at: datetime
    source: str
    subject: str
    reason: str
    state: Literal["raised", "changed", "resolved"]
    severity: Severity
    why: str
    look: str
    facts: dict[str, str | int | float | None]

    @property
    def key(self) -> AlertKey:
        """Source, subject and reason."""
        return self.source, self.subject, self.reason


class AlertFollower:
    """Follows the topic of alerts.

    Args:
        log: the log.
        known: the last change of each alert that the topic's table holds (`read_table`).

    Attributes:
        last: key → the alert's last change, as of the last poll.
    """

    def __init__(self, log: Log, known: dict[AlertKey, Alert] | None = None) -> None:
        self._follower = TopicFollower(log, TOPIC, msgspec.json.Decoder(Alert).decode)
        self.last: dict[AlertKey, Alert] = dict(known or {})

    @property
    def open(self) -> list[Alert]:
        """The last change of each alert that is not resolved, the oldest first."""
        alerts = [alert for alert in self.last.values() if alert.state != "resolved"]
        return sorted(alerts, key=lambda alert: alert.at)

    def poll(self) -> list[TopicRecord[Alert]]:
        """Reads the changes since the last poll, without those whose number an earlier change has."""
        before = self._follower.log_id
        records = self._follower.poll()
        if before not in (None, self._follower.log_id):  # the topic was created again: numbers restart at 1
            self.last = {}
        changes: list[TopicRecord[Alert]] = []
        for record in records:
            alert = record.value
            last = self.last.get(alert.key)
            if last is None or alert.number > last.number:
                self.last[alert.key] = alert
                changes.append(record)
        return changes


def read_table(lake: Lake) -> dict[AlertKey, Alert]:
    """The last change of each alert in the topic's table, which also has changes that the log has deleted."""
    import polars as pl

    if not lake.table_exists(TABLE):
        return {}
    rows = (
        lake.table(TABLE)
        .scan()
        .filter(pl.col("_valid"))
        .sort("number")
        .unique(["source", "subject", "reason"], keep="last", maintain_order=True)
        .select(Alert.__struct_fields__)
        .collect()
    )
    alerts = [
        msgspec.convert({**row, "facts": msgspec.json.decode(row["facts"])}, Alert)
        for row in rows.iter_rows(named=True)
    ]
    return {alert.key: alert for alert in alerts}


def has_forgotten(log: Log) -> bool:
    """Whether the log may lack changes that the topic's table holds: it was trimmed or created again."""
    return TOPIC not in log.topics() or any(log.start(TOPIC).values())


def open_alerts(log: Log, lake: Lake | None = None) -> list[Alert]:
    """The last change of each alert that is not resolved, the oldest first.

    Args:
        lake: the lake with the topic's table, for changes that the log has deleted; None: only the log is read.
    """
    follower = AlertFollower(log, None if lake is None else read_table(lake))
    follower.poll()
    return follower.open
