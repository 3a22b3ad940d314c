"""A lineage store, and the published schemas as one validator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lineage.conformance import conformance_check

from headrace.lineage import Store
from headrace.lineage.names import Names


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "lineage.db", Names("shop"))
    yield store
    store.close()


@pytest.fixture(scope="session")
def conforming() -> Callable[[dict[str, Any]], None]:
    return conformance_check()
