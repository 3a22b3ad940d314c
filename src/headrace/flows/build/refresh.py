"""Refresh: whether a model takes newer inputs now, or keeps those it has until they are old enough."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from headrace.kernel.time import format_duration, now

__all__ = ["due_at", "taken_because"]


def taken_because(
    held: Mapping[str, Any] | None, inputs: Mapping[str, int], code: str, refresh: timedelta, *, trained: bool
) -> str | None:
    """Why the newest inputs are to be taken, or None: those held are kept.

    Args:
        held: what pointers/inputs/<model>.json holds: `snapshots`, `taken`, `code`.
        inputs: table → its newest snapshot.
        code: the fingerprint of what decides the training set.
        refresh: how old the inputs may grow. A build that runs every so often may reach this point a little
            earlier than the last time, so they are taken a tenth of it before, an hour at most.
        trained: whether there is a trained model at all.
    """
    if held is None or not trained:
        return "it was never trained"
    if held["code"] != code:
        return "its features or labels changed"
    if held["snapshots"] == dict(inputs):
        return None
    taken = datetime.fromisoformat(held["taken"])
    if now() >= _due(taken, refresh):
        return f"newer inputs, and those it has are as old as its refresh of {format_duration(refresh)} allows"
    return None


def due_at(held: Mapping[str, Any] | None, inputs: Mapping[str, int], refresh: timedelta) -> datetime | None:
    """When inputs that are held back now will be taken; None where none are."""
    if held is None or held["snapshots"] == dict(inputs):
        return None
    return _due(datetime.fromisoformat(held["taken"]), refresh)


def _due(taken: datetime, refresh: timedelta) -> datetime:
    return taken + refresh - min(refresh / 10, timedelta(hours=1))
