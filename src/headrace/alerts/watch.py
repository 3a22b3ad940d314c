"""Watch: runs alert sources, and appends the changes of alerts to `headrace.alerts`.

It runs in its own thread and has no state that must survive the process, so it neither slows down nor fails the
work that it watches.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import msgspec

from headrace.alerts.record import TOPIC, Alert, AlertFollower, read_table
from headrace.alerts.source import AlertSource, Finding
from headrace.kernel.errors import HeadraceError
from headrace.kernel.faults import reach
from headrace.kernel.ids import new_id
from headrace.kernel.time import now
from headrace.lake import Lake
from headrace.log import Log

__all__ = ["AlertWatch"]

EVERY = 2.0  # seconds between two rounds
_GRACE = 10.0  # seconds to wait for the last round at the end

_logger = logging.getLogger(__name__)


class AlertWatch:
    """Runs alert sources while its block runs, and once more at the block's end.

    Args:
        sources: the alert sources.
        log, lake: the log with the topic of alerts, and the lake with its table.
    """

    def __init__(self, sources: Sequence[AlertSource], log: Log, lake: Lake) -> None:
        self._sources = sources
        self._log, self._lake = log, lake
        self._follower: AlertFollower | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alert-watch", daemon=True)

    def __enter__(self) -> AlertWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(_GRACE)

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(EVERY)
            for source in self._sources:
                try:
                    self._run_round(source)
                except HeadraceError as error:
                    _logger.warning("alerts: %s could not be checked, next try soon: %s", source.name, error)
                except Exception:  # a failing alert source must not stop the work that it watches
                    _logger.exception("alerts: %s could not be checked", source.name)

    def _run_round(self, source: AlertSource) -> None:
        if self._follower is None:
            follower = AlertFollower(self._log, read_table(self._lake))
            follower.poll()
            self._follower = follower
        follower = self._follower
        source.observe(_open_of(source, follower))
        if _due(source, follower):
            follower.poll()  # another process may have appended the same change meanwhile
            self._append(_due(source, follower))
        source.settle()

    def _append(self, changes: list[Alert]) -> None:
        for alert in changes:
            _logger.warning("alert %s (%s) on %s: %s", alert.state, alert.severity, alert.subject, alert.why)
        if changes:
            self._log.create(TOPIC)
            values = [msgspec.json.encode(alert) for alert in changes]
            self._log.append(TOPIC, values, [alert.subject.encode() for alert in changes])
            reach("alerts.after_append")


def _open_of(source: AlertSource, follower: AlertFollower) -> list[Alert]:
    return [alert for alert in follower.open if alert.source == source.name]


def _due(source: AlertSource, follower: AlertFollower) -> list[Alert]:
    """The changes that make the source's alerts agree with its findings."""
    open_alerts = _open_of(source, follower)
    severities = {alert.key: alert.severity for alert in open_alerts}
    changes = []
    for finding in source.judge(open_alerts):
        key = (source.name, finding.subject, finding.reason)
        if finding.severity != severities.get(key):
            changes.append(_next_change(source.name, finding, follower.last.get(key)))
    return changes


def _next_change(source: str, finding: Finding, last: Alert | None) -> Alert:
    """The change that brings an alert to the severity of a finding.

    Args:
        source: the name of the source that found it.
        finding: the finding; its severity is None if the alert is over.
        last: the previous change, if any.
    """
    current = last if last is not None and last.state != "resolved" else None
    id_ = new_id()
    return Alert(
        id=id_,
        alert=current.alert if current else id_,
        number=last.number + 1 if last else 1,
        at=now(),
        source=source,
        subject=finding.subject,
        reason=finding.reason,
        state="raised" if current is None else "resolved" if finding.severity is None else "changed",
        severity=finding.severity or (current.severity if current else "warning"),
        why=finding.why,
        look=finding.look,
        facts=finding.facts,
    )
