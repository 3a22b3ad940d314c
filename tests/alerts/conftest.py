"""The contract, log and lake of the events' tests."""

from tests.events.conftest import contract, events_log, lake, settings

__all__ = ["contract", "events_log", "lake", "settings"]
