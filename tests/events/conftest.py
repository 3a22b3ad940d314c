"""A small contract, a log and a lake in a scratch folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.events.clicks import Click

from headrace import log
from headrace.config.settings import Settings, make_settings
from headrace.declare.event import Contract, contract_of
from headrace.lake import Lake
from headrace.lake import open as open_lake
from headrace.log import Log


@pytest.fixture
def contract() -> Contract:
    declared = contract_of(Click)
    assert declared is not None
    return declared


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, "scratch", state=tmp_path / "state")


@pytest.fixture
def events_log(settings: Settings) -> Iterator[Log]:
    opened = log.open(settings.log.url)
    yield opened
    opened.close()


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return open_lake(settings)
