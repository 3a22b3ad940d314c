"""A workspace opens each part once, when it is first asked for, and closes what it opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.config.settings import Settings, make_settings
from headrace.workspace import Workspace


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    return make_settings(tmp_path, "shop")


def test_each_part_is_opened_once(settings: Settings) -> None:
    with Workspace(settings) as workspace:
        assert workspace.log is workspace.log
        assert workspace.lake is workspace.lake
        assert workspace.online is workspace.online
        assert workspace.registry is workspace.registry
        assert workspace.lineage is workspace.lineage
        assert workspace.project.settings is settings


def test_parts_are_closed_at_the_end_and_opened_again_when_asked_for(settings: Settings) -> None:
    with Workspace(settings) as workspace:
        log = workspace.log
        log.create("clicks")
    assert workspace.log is not log
    assert workspace.log.topics() == ["clicks"]
    workspace.close()


def test_nothing_is_opened_or_imported_before_it_is_asked_for(settings: Settings) -> None:
    code = (
        "import sys; from pathlib import Path; from headrace.config.settings import make_settings\n"
        "from headrace.workspace import Workspace\n"
        f"with Workspace(make_settings(Path({str(settings.root)!r}), 'shop')): pass\n"
        "print([m for m in ('polars', 'pyarrow', 'mlflow', 'feast', 'sqlite3') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert not settings.state.exists()
