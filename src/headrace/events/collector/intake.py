"""Intake: judges and appends the events of many requests to one topic together, so that they share one pass of
the judge and one fsync."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import msgspec
import numpy as np
from msgspec import Struct, field

from headrace.declare.event import Contract
from headrace.events.collector.requests import IdempotencyKey, IdempotencyStore, StoredAnswer
from headrace.events.verdicts.judge import Judge
from headrace.events.verdicts.keys import key_of
from headrace.http.responses import HttpError
from headrace.kernel.errors import RecordsRefused, TooLarge, Unavailable
from headrace.kernel.properties import REQUEST
from headrace.kernel.time import now_micros
from headrace.log import Batch, Log, record_sizes

__all__ = ["Intake", "OfferedEvents"]

_log = logging.getLogger("headrace.events")
_GROUP = 20_000  # events judged and appended at once
_MOST_LISTED = 100  # refused events that an answer lists
_TOO_LARGE = "too_large"
_LARGEST = 1 << 20  # bytes of an event with its key, even if the log accepts more
_encoder = msgspec.json.Encoder()


class OfferedEvents(Struct, eq=False):
    """One request's events.

    Attributes:
        values: the bytes of each event.
        partial: whether good events are accepted if others are refused.
        key: its Idempotency-Key, if any.
        answer: set to the body of the 202 answer, or to the HttpError.
        refused: place of an event that is not accepted → its entry in the answer.
    """

    values: Sequence[bytes]
    partial: bool
    key: IdempotencyKey | None
    answer: asyncio.Future[bytes]
    size: int = 0
    refused: dict[int, dict[str, Any]] = field(default_factory=dict)
    keys: list[bytes | None] = field(default_factory=list)

    @property
    def good(self) -> list[int]:
        """The places of the events that the contract and the log accept."""
        return [at for at in range(len(self.values)) if at not in self.refused]

    @property
    def headers(self) -> dict[str, bytes] | None:
        """The headers of its events."""
        return None if self.key is None else {REQUEST: self.key.key}

    def refuse(self, at: int, code: str, field: str | None, reason: str) -> None:
        """Records that the event at this place is not accepted, and why."""
        self.refused[at] = {"index": at, "code": code, "field": field, "reason": reason}

    def describe_refused(self) -> list[dict[str, Any]]:
        """The answer's entries for the first hundred events that are not accepted."""
        return [self.refused[at] for at in sorted(self.refused)[:_MOST_LISTED]]


class Intake:
    """The events of one topic on their way to the log.

    Args:
        contract: judges the events. Duplicates are not refused here: only ingest knows what was admitted.
        log: the log to append to; the topic is created if it does not exist.
        requests: the store of Idempotency-Keys.
        most: bytes that may wait to be appended; a request beyond them is answered with 429.
    """

    def __init__(self, contract: Contract, log: Log, requests: IdempotencyStore, most: int) -> None:
        self._topic = contract.topic
        self._key = contract.key
        self._judge = Judge(attrs.evolve(contract, dedup_within=None))
        self._log = log
        self._requests = requests
        self._most = most
        self._waiting: list[OfferedEvents] = []
        self._size = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"collect {contract.topic}")
        self._task: asyncio.Task[None] | None = None
        log.create(contract.topic, contract.partitions, contract.retention)
        self._judge.judge(_batch([b"{}"]))  # so that no request waits while Arrow loads pandas

    async def offer(self, values: Sequence[bytes], *, partial: bool, key: IdempotencyKey | None) -> bytes:
        """Waits until the events are durable on the log; returns the body of the 202 answer.

        Raises:
            HttpError: 422 or 413 with the refused events; 429 if too much is waiting.
            HeadraceError: the log cannot be reached; the events may or may not have been appended.
        """
        size = sum(map(len, values)) + 1000
        if self._size + size > self._most and self._size:
            raise HttpError(
                429, "busy", "Too many events are waiting to be appended.", headers={"Retry-After": "1"}
            )
        offered = OfferedEvents(values, partial, key, asyncio.get_running_loop().create_future(), size)
        self._waiting.append(offered)
        self._size += size
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        try:
            return await offered.answer
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
            for offered, answer in zip(group, answers, strict=True):
                if offered.answer.cancelled():
                    continue
                if isinstance(answer, Exception):
                    offered.answer.set_exception(answer)
                else:
                    offered.answer.set_result(answer)

    def _next_group(self) -> list[OfferedEvents]:
        """The requests to handle next: in the order of arrival, and each Idempotency-Key once, so that a
        repetition in a later group finds the outcome of the first."""
        group: list[OfferedEvents] = []
        later: list[OfferedEvents] = []
        keys: set[bytes] = set()
        events = 0
        for offered in self._waiting:
            is_repeated = offered.key is not None and offered.key.key in keys
            if is_repeated or (group and events + len(offered.values) > _GROUP):
                later.append(offered)
                continue
            group.append(offered)
            events += len(offered.values)
            if offered.key is not None:
                keys.add(offered.key.key)
        self._waiting = later
        return group

    def _take(self, group: list[OfferedEvents]) -> list[bytes | Exception]:
        """Judges and appends the events of a group, on the intake's thread; returns an answer per request."""
        self._judge_all(group)
        self._refuse_large(group)
        while True:
            answers: dict[int, bytes | Exception] = {}
            fresh = []
            for at, offered in enumerate(group):
                answer = self._immediate_answer(offered)
                if answer is None:
                    fresh.append((at, offered))
                else:
                    answers[at] = answer
            if not fresh or self._append(fresh, answers):
                return [answers[at] for at in range(len(group))]

    def _judge_all(self, group: list[OfferedEvents]) -> None:
        values = [value for offered in group for value in offered.values]
        owner = [(offered, at) for offered in group for at in range(len(offered.values))]
        verdicts = self._judge.judge(_batch(values))
        for offered in group:
            offered.keys = [None] * len(offered.values)
        places: list[Any] = verdicts.rows["_log_offset"].to_pylist()
        if self._key is not None:
            keys_of_rows = verdicts.rows[self._key].slice(0, verdicts.good).to_pylist()
            for place, value in zip(places, keys_of_rows, strict=False):
                offered, at = owner[place]
                offered.keys[at] = key_of(value)
        refused = verdicts.rows.slice(verdicts.good).select(["_log_offset", "_code", "_field", "_reason"])
        for row in refused.to_pylist():
            offered, at = owner[row["_log_offset"]]
            offered.refuse(at, row["_code"], row["_field"], row["_reason"])

    def _refuse_large(self, group: list[OfferedEvents]) -> None:
        largest = min(_LARGEST, self._log.largest(self._topic))
        for offered in group:
            for at, size in enumerate(
                record_sizes(offered.values, offered.keys, [offered.headers] * len(offered.values))
            ):
                if size > largest:
                    reason = f"it has {size:,} bytes with its key, and may have {largest:,}"
                    offered.refuse(at, _TOO_LARGE, None, reason)

    def _immediate_answer(self, offered: OfferedEvents) -> bytes | Exception | None:
        """The answer to a request that is refused or was handled before; None: its events must be appended."""
        try:
            known = None if offered.key is None else self._requests.find_outcome(self._topic, offered.key)
        except HttpError as error:
            return error
        if isinstance(known, StoredAnswer):
            return known.answer
        if known is not None:
            return _acceptance(offered, known)
        if offered.refused and (not offered.partial or len(offered.refused) == len(offered.values)):
            return _refusal(offered)
        return None

    def _append(self, fresh: list[tuple[int, OfferedEvents]], answers: dict[int, bytes | Exception]) -> bool:
        """Appends the events of fresh requests; False if the log refused some, and so appended none.

        The events that the log refused are marked as refused, so that the caller can append the others.
        """
        keyed = [(offered.key, len(offered.good)) for _, offered in fresh if offered.key is not None]
        if keyed:
            self._requests.intend(self._topic, keyed)
        events = [(offered, at) for _, offered in fresh for at in offered.good]
        try:
            positions = self._log.append(
                self._topic,
                [offered.values[at] for offered, at in events],
                [offered.keys[at] for offered, at in events],
                [headers for _, offered in fresh for headers in [offered.headers] * len(offered.good)],
            )
        except RecordsRefused as error:
            code = _TOO_LARGE if isinstance(error, TooLarge) else "refused_by_log"
            for place in error.places:
                offered, at = events[place]
                offered.refuse(at, code, None, error.what)
            return False
        start = 0
        for at, offered in fresh:
            end = start + len(offered.good)
            answers[at] = _acceptance(offered, positions[start:end])
            start = end
        if keyed:
            keyed_answers = [
                (offered.key, answer)
                for at, offered in fresh
                if offered.key and isinstance(answer := answers[at], bytes)
            ]
            try:
                self._requests.store_answers(self._topic, keyed_answers)
            except Unavailable:  # a repeated request finds its key on the log, where the events are
                _log.warning("%d answers to requests could not be stored", len(keyed_answers), exc_info=True)
        return True


def _refusal(offered: OfferedEvents) -> HttpError:
    """The answer to a request without accepted events."""
    total, events = len(offered.refused), offered.describe_refused()
    more = {"refused": total, "events": events}
    if all(event["code"] == _TOO_LARGE for event in offered.refused.values()):
        message = f"{total} of {len(offered.values)} events are too large; none was appended."
        return HttpError(413, _TOO_LARGE, message, more=more)
    message = f"{total} of {len(offered.values)} events are refused; none was appended."
    return HttpError(422, "refused", message, field=events[0]["field"], more=more)


def _acceptance(offered: OfferedEvents, positions: list[tuple[int, int]]) -> bytes:
    answer: dict[str, Any] = {"accepted": len(positions), "positions": positions}
    if offered.refused:
        answer |= {"refused": len(offered.refused), "events": offered.describe_refused()}
    return _encoder.encode(answer)


def _batch(values: list[bytes]) -> Batch:
    """A batch of the events as if the log already held them, in their order of arrival."""
    n = len(values)
    nothing = [None] * n
    arrived = np.full(n, now_micros(), np.int64)
    return Batch(np.zeros(n, np.int32), np.arange(n), arrived, values, nothing, nothing, {})
