"""Refresh: decides whether a model takes newer inputs now, or keeps its own until they are old enough."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from headrace.kernel.time import format_duration, now

__all__ = ["due_at", "refresh_reason"]


def refresh_reason(
    pointer: Mapping[str, Any] | None,
    inputs: Mapping[str, int],
    code: str,
    refresh: timedelta,
    *,
    is_trained: bool,
) -> str | None:
    """Why the model takes its newest inputs now; None: it keeps its own.

    Args:
        pointer: the content of pointers/inputs/MODEL.json: `snapshots`, `taken`, `code`.
        inputs: table → its newest snapshot.
        code: the fingerprint of the code that decides the training set.
        refresh: how old the inputs may grow. Newer ones are taken a tenth of this earlier, at most an hour,
            because scheduled builds do not start at exactly the same time.
        is_trained: whether the model has been trained at all.
    """
    if pointer is None or not is_trained:
        return "it was never trained"
    if pointer["code"] != code:
        return "its features or labels changed"
    if pointer["snapshots"] == dict(inputs):
        return None
    taken = datetime.fromisoformat(pointer["taken"])
    if not taken <= now() < _due(taken, refresh):  # before `taken`: the clock was set back
        return f"newer inputs, and those it has are as old as its refresh of {format_duration(refresh)} allows"
    return None


def due_at(pointer: Mapping[str, Any] | None, inputs: Mapping[str, int], refresh: timedelta) -> datetime | None:
    """When the model will take the newer inputs that its refresh delays; None if there are none."""
    if pointer is None or pointer["snapshots"] == dict(inputs):
        return None
    return _due(datetime.fromisoformat(pointer["taken"]), refresh)


def _due(taken: datetime, refresh: timedelta) -> datetime:
    return taken + refresh - min(refresh / 10, timedelta(hours=1))
