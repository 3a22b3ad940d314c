"""Refusals: an alert source that watches the refusal rates of topics."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence

from headrace.alerts.record import Alert, Severity
from headrace.alerts.source import Finding
from headrace.declare.alerts import Alerts
from headrace.declare.event import Contract
from headrace.events.ingest.position import read_position
from headrace.events.ingest.rates import RefusalKey, RefusalRate, RefusalRates, severity_of
from headrace.kernel.counts import plural
from headrace.kernel.time import format_duration, now_micros
from headrace.lake import Lake
from headrace.log import Log

__all__ = ["RefusalSource"]

_UNWATCHED = "the topic's contract declares no alerts any more"
_UNDECLARED = "the topic has no contract any more"


class RefusalSource:
    """Watches the topics of contracts that have `alerts` (headrace.alerts.source.AlertSource).

    The subject of its alerts is the topic; the reason is a refusal code and the field, if there is one. It
    reads the counts that commits store in the topics' tables, so it sees the events of every worker.

    Args:
        contracts: the contracts of the topics that are ingested here.
        log, lake: the log with the topics and the lake with their tables.
        declared: all topics that have a contract, whichever process ingests them.
    """

    name = "refusals"

    def __init__(self, contracts: Iterable[Contract], log: Log, lake: Lake, declared: Collection[str]) -> None:
        contracts = list(contracts)
        self._contracts = {contract.topic: contract for contract in contracts if contract.alerts is not None}
        self._unwatched = {contract.topic for contract in contracts} - self._contracts.keys()
        self._log, self._lake, self._declared = log, lake, frozenset(declared)
        self._rates: dict[str, RefusalRates] = {}
        self._lock = threading.Lock()
        self._committed: set[str] = set()
        self._unsettled: set[str] = set()  # topics with commits that no settled round has observed
        self._until: dict[str, int] = {}  # topic → the end of its window, in this round

    def note_commit(self, topic: str) -> None:
        """Records that there is a commit to observe. Any thread may call it; it returns at once."""
        with self._lock:
            self._committed.add(topic)

    def observe(self, open: Sequence[Alert]) -> None:
        """Reads the counts of the commits since the last round (AlertSource.observe)."""
        with self._lock:
            self._unsettled |= self._committed & self._contracts.keys()
            self._committed.clear()
        self._until = {}
        for topic in self._unsettled | ({alert.subject for alert in open} & self._contracts.keys()):
            contract = self._contracts[topic]
            rates = self._rates.get(topic)
            if rates is None:
                rates = self._rates[topic] = RefusalRates(contract, self._lake.table(contract.table))
            rates.update()
            until = rates.latest
            if topic not in self._unsettled and self._is_at_end(contract):
                until = max(until, now_micros())  # the table has all arrivals, so the window may end now
            self._until[topic] = until

    def judge(self, open: Sequence[Alert]) -> list[Finding]:
        """One finding for each reason that occurs in a topic's window or has an open alert. An alert of a topic
        that has no contract any more, or whose contract has no `alerts`, is over."""
        severities = {(alert.subject, _key_of(alert)): alert.severity for alert in open}
        findings = []
        for alert in open:
            if alert.subject in self._unwatched or alert.subject not in self._declared:
                over = _UNWATCHED if alert.subject in self._unwatched else _UNDECLARED
                findings.append(Finding(alert.subject, alert.reason, None, over, alert.look, alert.facts))
        for topic, until in self._until.items():
            limits = self._contracts[topic].alerts
            assert limits is not None
            rates = self._rates[topic]
            for key in {*rates.keys(), *(key for subject, key in severities if subject == topic)}:
                rate = rates.rate(key, until)
                severity = severity_of(rate, limits, severities.get((topic, key)))
                findings.append(_finding(topic, key, rate, limits, severity))
        return findings

    def settle(self) -> None:
        """Marks the commits of this round as handled (AlertSource.settle)."""
        self._unsettled.clear()

    def _is_at_end(self, contract: Contract) -> bool:
        position = read_position(self._lake.table(contract.table))
        if position is None:
            return False
        partitions = range(self._log.partitions(contract.topic))
        offsets = {partition: position.next_offset(partition) for partition in partitions}
        return not self._log.wait(contract.topic, offsets, 0)


def _key_of(alert: Alert) -> RefusalKey:
    field = alert.facts["field"]
    return str(alert.facts["code"]), None if field is None else str(field)


def _finding(
    topic: str, key: RefusalKey, rate: RefusalRate, limits: Alerts, severity: Severity | None
) -> Finding:
    code, field = key
    reason = f"{code} ({field})" if field else code
    events = plural(rate.events, "event")
    why = f"{rate.share:.2%} of {events} in {format_duration(limits.window)} refused as {reason}"
    if rate.baseline is not None:
        why += f"; {rate.baseline:.2%} in the {format_duration(limits.baseline)} before"
    return Finding(
        subject=topic,
        reason=reason,
        severity=severity,
        why=why,
        look=f"headrace quarantine show {topic} --code {code}" + (f" --field {field}" if field else ""),
        facts={
            "code": code,
            "field": field,
            "refused": rate.refused,
            "events": rate.events,
            "share": rate.share,
            "baseline": rate.baseline,
            "window": limits.window.total_seconds(),
        },
    )
