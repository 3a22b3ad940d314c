"""Watch: looks at a topic's rates after commits, and says on `headrace.alerts` when one is too high.

It works in a thread of its own, reads what the commits left in the table, and holds nothing that must
survive: it neither slows ingest nor fails it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

import msgspec

from headrace.alerts.record import TOPIC, Alert, Changes, change, from_table
from headrace.declare.event import Contract
from headrace.events.ingest.facts import POSITION
from headrace.events.ingest.rates import Rates, severity
from headrace.kernel.errors import HeadraceError
from headrace.kernel.faults import reach
from headrace.kernel.position import LogPosition
from headrace.kernel.time import now_micros
from headrace.lake import Lake
from headrace.log import Log

__all__ = ["Watch"]

EVERY = 2.0  # seconds between two looks
_GRACE = 10.0  # seconds that the end waits for the last look

_logger = logging.getLogger(__name__)


class Watch:
    """Watches topics while its block runs.

    Args:
        contracts: of the topics that are ingested here; those without `alerts` are passed over.
        log, lake: where topics and tables are.
    """

    def __init__(self, contracts: Iterable[Contract], log: Log, lake: Lake) -> None:
        self._contracts = {one.topic: one for one in contracts if one.alerts is not None}
        self._log, self._lake = log, lake
        self._rates: dict[str, Rates] = {}
        self._changes: Changes | None = None
        self._committed: set[str] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(_GRACE)

    def committed(self, topic: str) -> None:
        """Says that there is a commit to look at; returns at once."""
        with self._lock:
            self._committed.add(topic)

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(EVERY)  # once more at the end
            with self._lock:
                committed, self._committed = self._committed & self._contracts.keys(), set()
            try:
                self._look(committed)
            except HeadraceError as error:
                _logger.warning("alerts: the rates are looked at again: %s", error)
                with self._lock:
                    self._committed |= committed
            except Exception:  # whatever it is, ingest goes on
                _logger.exception("alerts: the rates could not be looked at")

    def _look(self, committed: set[str]) -> None:
        if self._changes is None:
            if not committed and TOPIC not in self._log.topics():
                return
            self._changes = Changes(self._log, from_table(self._lake))
            self._changes.poll()
        open_ = {one.topic for one in self._changes.open} & self._contracts.keys()
        for topic in committed | open_:
            contract = self._contracts[topic]
            rates = self._rates.get(topic)
            if rates is None:
                rates = self._rates[topic] = Rates(contract, self._lake.table(contract.table))
            rates.look()
            until = rates.latest
            if topic not in committed and self._at_end(contract):
                until = max(until, now_micros())  # nothing has arrived since, and that is known
            if self._decided(contract, rates, until, self._changes):
                self._changes.poll()  # another worker may have said so meanwhile
                self._tell(self._decided(contract, rates, until, self._changes))

    def _at_end(self, contract: Contract) -> bool:
        position = self._lake.table(contract.table).position(POSITION)
        if not isinstance(position, LogPosition):
            return False
        offsets = {p: position.next_offset(p) for p in range(self._log.partitions(contract.topic))}
        return not self._log.wait(contract.topic, offsets, 0)

    def _decided(self, contract: Contract, rates: Rates, until: int, changes: Changes) -> list[Alert]:
        """The changes that are due."""
        assert contract.alerts is not None
        mine = [(one.code, one.field) for one in changes.open if one.topic == contract.topic]
        found = []
        for reason in {*rates.reasons(), *mine}:
            last = changes.last.get((contract.topic, *reason))
            old = last.severity if last is not None and last.state != "resolved" else None
            rate = rates.rate(reason, until)
            new = severity(rate, contract.alerts, old)
            if new != old:
                found.append(change(contract, reason, rate, new, last))
        return found

    def _tell(self, alerts: list[Alert]) -> None:
        for one in alerts:
            _logger.warning("alert %s (%s) on topic %s: %s", one.state, one.severity, one.topic, one.why)
        if alerts:
            self._log.create(TOPIC)
            values = [msgspec.json.encode(one) for one in alerts]
            self._log.append(TOPIC, values, [one.topic.encode() for one in alerts])
            reach("alerts.after_append")
