"""An event that a rowwise function fails on, through the verbs: send, ingest, build, status."""

from __future__ import annotations

import json
from pathlib import Path

from tests.flows.builds import call
from tests.tiny import write

from headrace.config.settings import load_settings

TABLES = """
from datetime import datetime

import polars as pl
from headrace import Struct, day, event, table

@event(topic="click.s", time="at", key="user", identity=["user"], dedup_within="1h")
class Click(Struct):
    at: datetime
    user: int
    price: float

def share(price):
    return 100 / price

@table(reads=Click, partition_by=day("at"), rowwise=True)
def shares(clicks):
    shared = pl.col("price").map_elements(share, return_dtype=pl.Float64)
    return clicks.select("at", "user", "_known_at", share=shared)
"""


def test_an_event_that_a_rowwise_function_fails_on_is_named_by_build_and_status_and_stops_nothing(
    tmp_path: Path,
) -> None:
    settings = load_settings(write(tmp_path / "project", TABLES))
    events = [{"at": f"2026-01-01T00:00:0{user}Z", "user": user, "price": user % 3} for user in range(1, 6)]
    (settings.root / "data" / "clicks.ndjson").write_text("\n".join(map(json.dumps, events)))
    for arguments in (["send", "click.s", "data/clicks.ndjson"], ["ingest", "--until-end"]):
        assert call(settings, *arguments).returncode == 0

    built = call(settings, "build")
    assert built.returncode == 0, built.stderr
    failure = "click.s@0:2: shares failed: ZeroDivisionError: float division by zero"
    assert f"left out 1 row that shares() fails on: {failure}" in " ".join(built.stdout.split())

    shown = call(settings, "status")
    assert "shares leaves out 1 row that its function fails on, for example:" in shown.stdout
    assert failure in shown.stdout
    tables = {
        table["table"]: table for table in json.loads(call(settings, "status", "--json").stdout)["tables"]
    }
    assert (tables["shares"]["rows"], tables["shares"]["failed_rows"]) == (4, 1)
    assert tables["shares"]["failures"] == [failure]

    why = call(settings, "why", "click.s@0:2")
    assert why.returncode == 0
    assert "shares failed: ZeroDivisionError" in why.stdout

    tables_file = settings.root / "tiny" / "tables.py"
    tables_file.write_text(tables_file.read_text().replace("100 / price", "100 / price if price else 0.0"))
    assert call(settings, "build").returncode == 0
    assert "leaves out" not in call(settings, "status").stdout
