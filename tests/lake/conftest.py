from pathlib import Path

import pytest

from headrace import lake
from headrace.config.settings import Profile, Settings
from headrace.lake import Lake


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, "shop", "local", Profile(), tmp_path / ".headrace" / "local")


@pytest.fixture
def opened(settings: Settings) -> Lake:
    return lake.open(settings)
