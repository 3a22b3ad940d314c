"""The small contract, log and lake of the tests of events."""

from __future__ import annotations

from tests.events.conftest import contract, events_log, lake, settings

__all__ = ["contract", "events_log", "lake", "settings"]
