"""Intake: events of one topic from many requests at once, judged together and appended together, so
that they share one pass of the judge and one fsync."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import attrs
import msgspec
import numpy as np

from headrace.declare.event import Contract
from headrace.events.collector.requests import Answered, Key, Requests
from headrace.events.verdicts.judge import Judge
from headrace.events.verdicts.keys import key_of
from headrace.http.responses import HttpError
from headrace.kernel.errors import TooLarge, Unavailable
from headrace.kernel.properties import REQUEST
from headrace.kernel.time import now_micros
from headrace.log import Batch, Log, record_sizes

__all__ = ["Intake", "Offered"]

_log = logging.getLogger("headrace.events")
_GROUP = 20_000  # events judged and appended at once
_TOLD = 100  # refused events that an answer lists
_TOO_LARGE = "too_large"
_LARGEST = 1 << 20  # bytes of an event with its key, where the log takes more
_encoder = msgspec.json.Encoder()


@dataclass(eq=False)
class Offered:
    """One request's events.

    Attributes:
        values: the events as they came.
        partial: whether good events are taken where others are refused.
        key: its Idempotency-Key, if any.
        answer: set to the body of the 202, or to the HttpError.
        refused: place of an event that is not taken → what the answer tells of it.
    """

    values: Sequence[bytes]
    partial: bool
    key: Key | None
    answer: asyncio.Future[bytes]
    size: int = 0
    refused: dict[int, dict[str, Any]] = field(default_factory=dict)
    keys: list[bytes | None] = field(default_factory=list)

    @property
    def good(self) -> list[int]:
        """The places of the events that the contract and the log take."""
        return [at for at in range(len(self.values)) if at not in self.refused]

    @property
    def headers(self) -> dict[str, bytes] | None:
        """The headers of its events."""
        return None if self.key is None else {REQUEST: self.key.key}

    def refuse(self, at: int, code: str, field: str | None, reason: str) -> None:
        """Notes that the event at this place is not taken, and why."""
        self.refused[at] = {"index": at, "code": code, "field": field, "reason": reason}

    def describe_refused(self) -> list[dict[str, Any]]:
        """What the answer tells of the events that are not taken: of the first hundred."""
        return [self.refused[at] for at in sorted(self.refused)[:_TOLD]]


class Intake:
    """The events of one topic on their way to the log.

    Args:
        contract: what they must be. Whether an event is a duplicate is not asked here: only ingest
            knows what was admitted.
        log: where they go; the topic is made if it is not there.
        requests: remembers Idempotency-Keys.
        most: bytes that may wait; more is answered 429.
    """

    def __init__(self, contract: Contract, log: Log, requests: Requests, most: int) -> None:
        self._topic = contract.topic
        self._key = contract.key
        self._judge = Judge(attrs.evolve(contract, dedup_within=None))
        self._log = log
        self._requests = requests
        self._most = most
        self._waiting: list[Offered] = []
        self._size = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"collect {contract.topic}")
        self._task: asyncio.Task[None] | None = None
        log.create(contract.topic, contract.partitions, contract.retention)
        self._judge.judge(_batch([b"{}"]))  # Arrow loads pandas at its first conversion: not under a request

    async def offer(self, values: Sequence[bytes], *, partial: bool, key: Key | None) -> bytes:
        """The body of the 202 once the events are durable on the log.

        Raises:
            HttpError: 422 or 413 with the refused events, 429 where too much is waiting.
            HeadraceError: the log is away; the events may or may not have been appended.
        """
        size = sum(map(len, values)) + 1000
        if self._size + size > self._most and self._size:
            raise HttpError(
                429, "busy", "More events are waiting than can be taken.", headers={"Retry-After": "1"}
            )
        one = Offered(values, partial, key, asyncio.get_running_loop().create_future(), size)
        self._waiting.append(one)
        self._size += size
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        try:
            return await one.answer
        finally:
            self._size -= size

    def close(self) -> None:
        """Waits for the append in progress and ends the thread."""
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group = self._next_group()
            try:
                answers = await loop.run_in_executor(self._thread, self._take, group)
            except Exception as error:
                answers = [error] * len(group)
            for one, answer in zip(group, answers, strict=True):
                if one.answer.cancelled():
                    continue
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    def _next_group(self) -> list[Offered]:
        """What is dealt with next: in the order of arrival, and each Idempotency-Key once, so that the
        same again in a later group finds what became of the first."""
        group: list[Offered] = []
        later: list[Offered] = []
        keys: set[bytes] = set()
        events = 0
        for one in self._waiting:
            again = one.key is not None and one.key.key in keys
            if again or (group and events + len(one.values) > _GROUP):
                later.append(one)
                continue
            group.append(one)
            events += len(one.values)
            if one.key is not None:
                keys.add(one.key.key)
        self._waiting = later
        return group

    def _take(self, group: list[Offered]) -> list[bytes | Exception]:
        """On the intake's thread: an answer for each request of the group."""
        self._judge_all(group)
        self._refuse_large(group)
        while True:
            answers: dict[int, bytes | Exception] = {}
            fresh = []
            for at, one in enumerate(group):
                answer = self._at_once(one)
                if answer is None:
                    fresh.append((at, one))
                else:
                    answers[at] = answer
            if not fresh or self._append(fresh, answers):
                return [answers[at] for at in range(len(group))]

    def _judge_all(self, group: list[Offered]) -> None:
        values = [value for one in group for value in one.values]
        owner = [(one, at) for one in group for at in range(len(one.values))]
        rows = self._judge.judge(_batch(values))
        for one in group:
            one.keys = [None] * len(one.values)
        places: list[Any] = rows.rows["_log_offset"].to_pylist()
        if self._key is not None:
            found = rows.rows[self._key].slice(0, rows.good).to_pylist()
            for place, value in zip(places, found, strict=False):
                one, at = owner[place]
                one.keys[at] = key_of(value)
        bad = rows.rows.slice(rows.good).select(["_log_offset", "_code", "_field", "_reason"])
        for row in bad.to_pylist():
            one, at = owner[row["_log_offset"]]
            one.refuse(at, row["_code"], row["_field"], row["_reason"])

    def _refuse_large(self, group: list[Offered]) -> None:
        largest = min(_LARGEST, self._log.largest(self._topic))
        for one in group:
            for at, size in enumerate(record_sizes(one.values, one.keys, [one.headers] * len(one.values))):
                if size > largest:
                    reason = f"it has {size:,} bytes with its key, and may have {largest:,}"
                    one.refuse(at, _TOO_LARGE, None, reason)

    def _at_once(self, one: Offered) -> bytes | Exception | None:
        """The answer of a request that is refused, or that was answered before; else None."""
        try:
            known = None if one.key is None else self._requests.known(self._topic, one.key)
        except HttpError as error:
            return error
        if isinstance(known, Answered):
            return known.answer
        if known is not None:
            return _accepted(one, known)
        if one.refused and (not one.partial or len(one.refused) == len(one.values)):
            return _refusal(one)
        return None

    def _append(self, fresh: list[tuple[int, Offered]], answers: dict[int, bytes | Exception]) -> bool:
        """Appends them; False where the log took none, since it takes no longer what it took: these events are
        refused now."""
        keyed = [(one.key, len(one.good)) for _, one in fresh if one.key is not None]
        if keyed:
            self._requests.intend(self._topic, keyed)
        events = [(one, at) for _, one in fresh for at in one.good]
        try:
            positions = self._log.append(
                self._topic,
                [one.values[at] for one, at in events],
                [one.keys[at] for one, at in events],
                [headers for _, one in fresh for headers in [one.headers] * len(one.good)],
            )
        except TooLarge as error:
            for place in error.places:
                one, at = events[place]
                one.refuse(at, _TOO_LARGE, None, error.what)
            return False
        start = 0
        for at, one in fresh:
            end = start + len(one.good)
            answers[at] = _accepted(one, positions[start:end])
            start = end
        if keyed:
            done = [(one.key, a) for at, one in fresh if one.key and isinstance(a := answers[at], bytes)]
            try:
                self._requests.answered(self._topic, done)
            except Unavailable:  # the events are on the log, where their key is found again
                _log.warning("the answers to %d requests could not be kept", len(done), exc_info=True)
        return True


def _refusal(one: Offered) -> HttpError:
    """The answer of a request of which nothing is taken."""
    total, events = len(one.refused), one.describe_refused()
    more = {"refused": total, "events": events}
    if all(event["code"] == _TOO_LARGE for event in one.refused.values()):
        message = f"{total} of {len(one.values)} events are too large; none was appended."
        return HttpError(413, _TOO_LARGE, message, more=more)
    message = f"{total} of {len(one.values)} events are refused; none was appended."
    return HttpError(422, "refused", message, field=events[0]["field"], more=more)


def _accepted(one: Offered, positions: list[tuple[int, int]]) -> bytes:
    answer: dict[str, Any] = {"accepted": len(positions), "positions": positions}
    if one.refused:
        answer |= {"refused": len(one.refused), "events": one.describe_refused()}
    return _encoder.encode(answer)


def _batch(values: list[bytes]) -> Batch:
    """The events as if they were on the log already, in the order they came."""
    n = len(values)
    nothing = [None] * n
    arrived = np.full(n, now_micros(), np.int64)
    return Batch(np.zeros(n, np.int32), np.arange(n), arrived, values, nothing, nothing, {})
