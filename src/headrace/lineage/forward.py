"""Sends the recorded events to OpenLineage endpoints, each at least once and in order."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from headrace.kernel.backoff import repeat
from headrace.kernel.errors import Unavailable
from headrace.kernel.secrets import clean_text
from headrace.lineage.store import Store

__all__ = ["endpoint", "forward", "send"]

_log = logging.getLogger("headrace.lineage")
_PATH = "/api/v1/lineage"  # the path to which OpenLineage's own clients post
_BATCH = 100
_IDLE_SECONDS = 1.0
_LONGEST_SECONDS = 60.0
_REFUSED = frozenset({400, 413, 422})  # the event is wrong; after any other error the endpoint is


def endpoint(url: str) -> str:
    """The address to post to: an address without a path gets the path of OpenLineage's own clients."""
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + _PATH


def send(store: Store, url: str, client: httpx.Client) -> int:
    """Sends events that the endpoint has not received, at most 100, and returns how many.

    An event that the endpoint refuses for its content (400, 413, 422) is counted and skipped, so that it does
    not block later events.

    Raises:
        Unavailable: the endpoint cannot be reached, or does not accept events now.
    """
    key = os.environ.get("OPENLINEAGE_API_KEY")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    batch = store.unsent(url, _BATCH)
    for seq, body in batch:
        try:
            answer = client.post(endpoint(url), content=body, headers=headers)
        except httpx.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}", where=clean_text(url)) from error
        if answer.is_success:
            store.mark_sent(url, seq)
        elif answer.status_code in _REFUSED:
            store.mark_sent(url, seq, refused=f"it answered {answer.status_code}: {answer.text[:200]}")
        else:
            raise Unavailable(f"it answered {answer.status_code}", where=clean_text(url))
    return len(batch)


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
    with httpx.Client(timeout=10) as client:

        def send_once() -> float:
            return 0 if send(store, url, client) == _BATCH else idle

        def note_failure(error: Exception) -> None:
            _note_failure(store, url, error)

        repeat(send_once, stop, shortest=2 * idle, longest=_LONGEST_SECONDS, on_failure=note_failure)
    store.close()


def _note_failure(store: Store, url: str, error: Exception) -> None:
    try:
        store.mark_failed(url, clean_text(str(error)))
    except Exception:
        _log.debug("lineage: a failure to send could not be recorded", exc_info=True)
