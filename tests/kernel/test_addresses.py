"""A path, the address made of it, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine

from headrace.kernel.addresses import (
    find_passwords,
    path_of,
    path_of_sqlalchemy,
    sqlalchemy_url,
    sqlite_address,
)


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


@pytest.mark.parametrize(
    ("address", "passwords"),
    [
        ("postgresql://ada@host:5432/db", []),
        ("postgresql://host:5432/db?user=ada@host", []),
        ("postgresql://[::1]:5432/db?user=ada@host", []),
        ("postgresql://host/db?require_auth=scram-sha-256", []),
        ("snowflake+ada@account/db?auth_type=externalbrowser", []),
        ("sqlite:///a:b@c.db", []),
        ("sqlite:data/old.db", []),
        ("postgresql://ada:word@host/db", ["word"]),
        ("postgresql://ada:p%40ss@host/db", ["p%40ss", "p@ss"]),
        ("postgresql://ada:5p/w?o#rd@host/db", ["5p/w?o#rd"]),
        ("redis://:p@ss@host:6379/0", ["p", "p@ss"]),
        ("postgresql://host/db?user=ada&password=word&sslpassword=other", ["word", "other"]),
        ("snowflake+ada:word@account/db", ["word"]),
        ("mysql+root:word@tcp(host:3306)/db", ["word"]),
        ("mssql+server=host;user id=sa;pwd={word};", ["word"]),
        ("duckdb+md:shop?motherduck_token=word", ["word"]),
    ],
)
def test_passwords_in_addresses_are_found(address: str, passwords: list[str]) -> None:
    assert find_passwords(address) == passwords
