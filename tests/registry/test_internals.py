"""MLflow's internals that Headrace uses are where they are listed; another MLflow is refused in a sentence."""

import os
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from headrace import registry
from headrace.config.settings import Settings
from headrace.kernel.errors import Unavailable
from headrace.registry import internals
from headrace.registry.internals import ADDRESSES, ARTIFACT_ROOT, TABLES, VERSIONS, check_version

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_a_store_has_the_listed_tables_and_columns(settings: Settings) -> None:
    assert registry.open(settings).experiment
    with closing(sqlite3.connect(settings.place("mlflow", "mlflow.db"))) as store:
        for table, columns in TABLES.items():
            present = {row[1] for row in store.execute(f"PRAGMA table_info({table})")}
            assert set(columns) <= present, table
    assert all(column in TABLES[table] for table, column in ADDRESSES)


def test_the_store_makes_no_folder_in_the_working_directory(settings: Settings) -> None:
    assert registry.open(settings).experiment
    assert os.environ[ARTIFACT_ROOT] == settings.place("mlflow", "artifacts").as_uri()
    assert "mlruns" not in os.listdir()


def test_the_versions_are_those_of_the_package() -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert f"mlflow>={VERSIONS[0]},<{VERSIONS[1]}" in dependencies


@pytest.mark.parametrize("installed", ["3.16.9", "4.0.0", "4.1.0rc1"])
def test_another_mlflow_is_refused_in_one_sentence(
    settings: Settings, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_version()
    monkeypatch.setattr(internals, "version", lambda _: installed)
    with pytest.raises(Unavailable) as caught:
        registry.open(settings)
    assert caught.value.what == f"MLflow {installed} is installed, and Headrace needs MLflow >=3.17,<4"
    assert caught.value.remedy == 'pip install "mlflow>=3.17,<4"'
