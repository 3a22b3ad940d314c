"""MLflow's internals that Headrace uses are where they are listed; another MLflow is refused in a sentence."""

import os
import sqlite3
from contextlib import closing
from importlib import import_module

from headrace import registry
from headrace.config.settings import Settings
from headrace.registry.internals import ADDRESSES, ARTIFACT_ROOT, FUNCTIONS, TABLES


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


def test_the_modules_have_the_listed_functions() -> None:
    for module, functions in FUNCTIONS.items():
        assert all(callable(getattr(import_module(module), name)) for name in functions)
