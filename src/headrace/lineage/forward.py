"""Sends the recorded events to OpenLineage endpoints, each at least once and in order."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from itertools import zip_longest
from urllib.parse import urlsplit

import httpx

from headrace.kernel.backoff import repeat
from headrace.kernel.errors import Unavailable
from headrace.kernel.secrets import clean_text
from headrace.lineage.store import Store

__all__ = ["Sender", "endpoint", "forward"]

_log = logging.getLogger("headrace.lineage")
_PATH = "/api/v1/lineage"  # the path to which OpenLineage's own clients post
_BATCH = 100
_IDLE_SECONDS = 1.0
_LONGEST_SECONDS = 60.0
_TIMEOUT = httpx.Timeout(10, read=60)  # Marquez takes 28 s for one event with the lineage of 2,000 columns
_PATIENCE = 8  # how often an event may fail before the one after it is tried: about 3 minutes
_LONGEST_ANSWER = 4096  # bytes of an answer that are read
_REFUSED = frozenset({400, 413, 422})  # the event is wrong; after any other error the endpoint is


def endpoint(url: str) -> str:
    """The address to post to: an address without a path gets the path of OpenLineage's own clients."""
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + _PATH


class Sender:
    """Sends the events of a store to one endpoint, in their order.

    Args:
        store: the events, and how far they have been sent.
        url: the endpoint.
        client: how to reach it.
    """

    def __init__(self, store: Store, url: str, client: httpx.Client) -> None:
        self._store, self._url, self._client = store, url, client
        self._failing: int | None = None
        self._failures = 0

    def send(self) -> int:
        """Sends events that the endpoint has not received, at most 100, and returns how many.

        An event that the endpoint refuses for its content (400, 413, 422) is counted and skipped, so that it
        does not block later events. So is one that failed 8 times in another way, if the endpoint accepts the
        event after it, and then does not accept this one either.

        Raises:
            Unavailable: the endpoint cannot be reached, or does not accept events now.
        """
        batch = self._store.unsent(self._url, _BATCH)
        for (seq, body), following in zip_longest(batch, batch[1:]):
            try:
                refused = self._post(body)
            except Unavailable:
                if self._count_failure(seq) < _PATIENCE or following is None:
                    raise
                self._post(following[1])  # if this fails too, the endpoint is the cause
                refused = self._try_last(body)
            self._store.mark_sent(self._url, seq, refused=refused)
        return len(batch)

    def _post(self, body: bytes) -> str | None:
        """Posts an event. Returns why the endpoint refuses its content, or None."""
        key = os.environ.get("OPENLINEAGE_API_KEY")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        url = endpoint(self._url)
        try:
            with self._client.stream("POST", url, content=body, headers=headers) as answer:
                text = _read_start(answer)
        except httpx.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}", where=clean_text(self._url)) from error
        if answer.is_success:
            return None
        if answer.status_code in _REFUSED:
            return f"it answered {answer.status_code}: {clean_text(text)[:200]}"
        raise Unavailable(f"it answered {answer.status_code}", where=clean_text(self._url))

    def _count_failure(self, seq: int) -> int:
        """Counts a failure to send this event; returns how many it has had in a row."""
        self._failures = self._failures + 1 if self._failing == seq else 1
        self._failing = seq
        return self._failures

    def _try_last(self, body: bytes) -> str | None:
        try:
            return self._post(body)
        except Unavailable as error:
            return f"{error.what}, as {_PATIENCE} times before"


def _read_start(answer: httpx.Response) -> str:
    """The first bytes of the answer as text; whatever is sent after them is not read."""
    start = b""
    for chunk in answer.iter_raw():
        start += chunk
        if len(start) > _LONGEST_ANSWER:
            break
    return start[:_LONGEST_ANSWER].decode(errors="replace")


def forward(store: Store, urls: Sequence[str], stop: threading.Event, *, idle: float = _IDLE_SECONDS) -> None:
    """Sends to every endpoint until `stop` is set, each on a thread, so that a slow endpoint delays no other.

    A failure is recorded in the store, for doctor. The next attempt follows after 1 s, then after twice as long
    each time, up to a minute.
    """
    threads = [threading.Thread(target=_loop, args=(store, url, stop, idle), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _loop(store: Store, url: str, stop: threading.Event, idle: float) -> None:
    with httpx.Client(timeout=_TIMEOUT) as client:
        sender = Sender(store, url, client)

        def send_once() -> float:
            return 0 if sender.send() == _BATCH else idle

        def note_failure(error: Exception) -> None:
            _note_failure(store, url, error)

        repeat(send_once, stop, shortest=2 * idle, longest=_LONGEST_SECONDS, on_failure=note_failure)
    store.close()


def _note_failure(store: Store, url: str, error: Exception) -> None:
    try:
        store.mark_failed(url, clean_text(str(error)))
    except Exception:
        _log.debug("lineage: a failure to send could not be recorded", exc_info=True)
