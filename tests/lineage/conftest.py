"""A lineage store, and a check of events against the published schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lineage.conformance import make_event_check

from headrace.lineage import Store
from headrace.lineage.names import Names


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "lineage.db", Names("shop"))
    yield store
    store.close()


@pytest.fixture(scope="session")
def check_event() -> Callable[[dict[str, Any]], None]:
    return make_event_check()
