"""A path, the address made of it, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine

from headrace.kernel.addresses import path_of, path_of_sqlalchemy, sqlalchemy_url, sqlite_address


@pytest.mark.parametrize(
    "name",
    ["plain", "h#1", "q?x", "%41", "%", "a%20b?c", "br[a]", "{{x}}", "a b+c", "ü", "\U0001f600", "'\";&:@"],
)
def test_sqlite_opens_the_file_at_the_path_and_the_path_is_read_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "file.db"
    path.parent.mkdir()
    create_engine(sqlalchemy_url(path), poolclass=NullPool).connect().close()
    assert [str(entry) for entry in tmp_path.rglob("*")] == [str(path.parent), str(path)]
    assert path_of_sqlalchemy(sqlalchemy_url(path)) == path
    assert path_of(sqlite_address(path)) == path


def test_the_address_of_another_database_has_no_path() -> None:
    assert path_of_sqlalchemy("postgresql://anna@host/mlflow") is None
    assert path_of_sqlalchemy("https://mlflow.example") is None
