"""A simulated database of one table, with random writes, snapshots and losses, and the events of Debezium.

The rows of the table are a plain dict; the events are never applied to it. The rules are those of PostgreSQL (a
row is locked until its writer commits; a truncate waits for every writer) and of Debezium (changes come in the
order of their commits; rows that change within an incremental snapshot's window are left out of it).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

KEYS = range(8)


@dataclass(frozen=True)
class Event:
    """One Debezium event. `key` is None in a truncate and in the end of a snapshot without rows."""

    op: str
    lsn: int
    time: int
    key: int | None = None
    value: str | None = None
    snapshot: str | None = None


@dataclass
class Transaction:
    """Changes that are not committed yet: (op, lsn, key, value)."""

    changes: list[tuple[str, int, int, str | None]] = field(default_factory=list)

    @property
    def locked(self) -> set[int]:
        return {key for _, _, key, _ in self.changes}


class Database:
    """The server and its connector.

    Attributes:
        rows: the committed rows of the table: key → value.
        log: the events that the connector has sent.
        known: (time, rows) at each moment at which everything committed had been sent.
    """

    def __init__(self, seed: int, *, failover: bool = True) -> None:
        self.chance = random.Random(seed)
        self.rows: dict[int, str] = {}
        self.log: list[Event] = []
        self.known: list[tuple[int, dict[int, str]]] = []
        self._lsn = self.chance.choice([100, 50_000])
        self._time = 1_000
        self._listening = True
        self._open: list[Transaction] = [Transaction(), Transaction()]
        self._failover = failover
        if self.chance.random() < 0.7:
            self._snapshot()

    def run(self, steps: int) -> None:
        """Does something, so often; and lets all of it be sent."""
        doing = [self._write] * 60 + [self._commit] * 30 + [self._truncate, self._miss, self._read_again]
        doing += [self._read_incrementally] * 6 + ([self._restore, self._promote] if self._failover else [])
        for _ in range(steps):
            self._tick()
            self.chance.choice(doing)()
            if self._listening:
                self.known.append((self._time, dict(self.rows)))
        self._tick()
        if not self._listening:
            self._snapshot()
        for transaction in self._open:
            self._finish(transaction)
        self._tick()
        self.known.append((self._time, dict(self.rows)))

    def _tick(self) -> None:
        self._time += self.chance.randrange(1, 50)
        self._lsn += self.chance.randrange(1, 90)

    def _send(self, event: Event) -> None:
        if self._listening:
            self.log.append(event)

    def _write(self) -> None:
        writer = self.chance.choice(self._open)
        others = {key for transaction in self._open if transaction is not writer for key in transaction.locked}
        free = [key for key in KEYS if key not in others]
        if not free:
            return
        key = self.chance.choice(free)
        mine = [value for _, _, written, value in writer.changes if written == key]
        exists = (mine[-1] if mine else self.rows.get(key)) is not None
        if exists and self.chance.random() < 0.35:
            writer.changes.append(("d", self._lsn, key, None))
        else:
            writer.changes.append(("u" if exists else "c", self._lsn, key, f"v{self._lsn}.{self._time}"))

    def _commit(self) -> None:
        self._finish(self.chance.choice(self._open))

    def _finish(self, transaction: Transaction) -> None:
        if not transaction.changes:
            return
        self._tick()
        for op, lsn, key, value in transaction.changes:
            self._send(Event(op, lsn, self._time, key, value))
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        transaction.changes.clear()

    def _truncate(self) -> None:
        for transaction in self._open:
            self._finish(transaction)
        self._tick()
        self._send(Event("t", self._lsn, self._time))
        self.rows.clear()

    def _miss(self) -> None:
        """The connector stops and its slot is lost: later changes come with a snapshot, or never."""
        if self._listening:
            self._listening = False
        else:
            self._snapshot()

    def _read_again(self) -> None:
        self._snapshot()

    def _snapshot(self) -> None:
        self._listening = True
        self._tick()
        lsn, time = self._lsn, self._time
        if self.chance.random() < 0.1 and self.rows:  # killed before its end: it begins again
            for number, (key, value) in enumerate(list(self.rows.items())[:-1]):
                self._send(Event("r", lsn, time, key, value, "true" if number else "first"))
            self._tick()
            lsn, time = self._lsn, self._time
        rows = list(self.rows.items())
        if not rows:
            self._send(Event("r", lsn, time, snapshot="last"))
        ends = self.chance.choice(["last", "last_in_data_collection"])
        for number, (key, value) in enumerate(rows):
            if len(rows) == 1 and self.chance.random() < 0.5:
                place = "first"  # the only row of the first table: only a change that follows shows the end
                self._send(Event("r", lsn, time, key, value, place))
                self._tick()
                self.rows[key] = f"v{self._lsn}.{self._time}"
                for transaction in self._open:
                    transaction.changes = [change for change in transaction.changes if change[2] != key]
                self._send(Event("u", self._lsn, self._time, key, self.rows[key]))
                return
            place = ends if number == len(rows) - 1 else "first" if number == 0 else "true"
            self._send(Event("r", lsn, time, key, value, place))

    def _read_incrementally(self) -> None:
        if not self._listening:
            return
        self._tick()
        begin = len(self.log)
        wanted = self.chance.sample(list(KEYS), 4)
        for _ in range(self.chance.randrange(3)):
            self._tick()
            self.chance.choice([self._write, self._commit])()
        read = {key: self.rows[key] for key in wanted if key in self.rows}
        for _ in range(self.chance.randrange(3)):
            self._tick()
            self.chance.choice([self._write, self._commit])()
        self._tick()
        closed = self._lsn
        changed = {event.key for event in self.log[begin:]}
        # The connector lags: it reads the window's end some time after the database wrote it.
        seen_at = self._time + self.chance.choice([1, 400])
        for key, value in read.items():
            if key not in changed:
                self._send(Event("r", closed, seen_at, key, value, "incremental"))

    def _restore(self) -> None:
        """Another server with the table's rows of an earlier time, a new slot and a snapshot."""
        self.rows = dict(self.chance.choice(self.known)[1]) if self.known else {}
        self._start_log_again()
        self._snapshot()

    def _promote(self) -> None:
        """Another server with the same rows; the connector continues with it."""
        if self._listening:
            self._start_log_again()

    def _start_log_again(self) -> None:
        self._open = [Transaction(), Transaction()]
        self._tick()
        self._lsn = self.chance.randrange(50, max(self._lsn, 51))
