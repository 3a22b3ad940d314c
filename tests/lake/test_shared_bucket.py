"""Two clones of a project with an embedded catalog each, over one bucket of a real S3 server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from services.s3 import Store

from headrace import lake
from headrace.config.settings import make_settings
from headrace.kernel.ids import new_id

AT_ONCE = timedelta(microseconds=-1)


def test_maintenance_of_a_clone_leaves_the_files_of_the_other(
    tmp_path: Path, object_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    warehouse = {"warehouse": f"{object_store.url}/{new_id()[-12:]}"}
    clones = [
        lake.open(make_settings(tmp_path / name, "shop", "prod", values=warehouse)) for name in ("one", "two")
    ]
    tables = [clone.ensure("events", pa.schema([("x", pa.int64())])) for clone in clones]
    for x, table in enumerate(tables):
        table.append(pa.table({"x": [x]}))
    for table in tables:
        for _ in range(2):  # what one removal finds unreferenced, the next may delete
            lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
    assert [table.scan().collect()["x"].to_list() for table in tables] == [[0], [1]]
