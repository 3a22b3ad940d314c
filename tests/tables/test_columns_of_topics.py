"""Changes of the columns of a topic's table and of a table of current rows (the matrix of test_columns.py).

The rows of a topic are never written again: a field that is added is null in them, one that goes keeps its
column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import polars as pl
import pytest
from tests.events.customers import change
from tests.tables.changes_shop import Shop

from headrace import Struct, event
from headrace.declare.changes import changes, current
from headrace.declare.event import Contract, contract_of
from headrace.events.ingest.adoption import adopt_contract
from headrace.kernel.errors import Refused
from headrace.lake import Lake, LakeTable
from headrace.lake import open as open_lake
from headrace.projects.project import Project
from headrace.tables.read import read_input

AT = datetime(2026, 3, 1, tzinfo=UTC)


def contract(fields: dict[str, Any], declare: Callable[..., Any], **options: Any) -> Contract:
    """A contract with these fields, each a type, or a type and a default."""
    pairs = [(name, *field) if isinstance(field, tuple) else (name, field) for name, field in fields.items()]
    declared = contract_of(declare(**options)(msgspec.defstruct("Order", pairs, bases=(Struct,))))
    assert declared is not None
    return declared


class TestTopic:
    BEFORE: ClassVar = {"at": datetime, "size": int, "note": (str | None, None)}

    @pytest.fixture
    def lake(self, project: Project) -> Lake:
        return open_lake(project.settings)

    @pytest.fixture
    def orders(self, lake: Lake) -> LakeTable:
        table = adopt_contract(contract(self.BEFORE, event, topic="orders", time="at"), lake)
        table.append(pl.DataFrame({"at": [AT], "size": [1], "note": ["a"], "_valid": [True]}).to_arrow())
        return table

    @pytest.mark.parametrize(
        ("after", "version", "values"),
        [
            ({**BEFORE, "more": (float | None, None)}, 1, {"size": [1], "note": ["a"], "more": [None]}),
            ({"at": datetime, "size": int}, 2, {"size": [1]}),
            ({"size": int, "at": datetime, "note": (str | None, None)}, 1, {"size": [1], "note": ["a"]}),
            ({"at": datetime, "total": int, "note": (str | None, None)}, 2, {"total": [None], "note": ["a"]}),
        ],
        ids=["add", "drop", "reorder", "rename"],
    )
    def test_keeps_its_rows_and_readers_get_the_fields_of_the_contract(
        self,
        project: Project,
        lake: Lake,
        orders: LakeTable,
        after: dict[str, Any],
        version: int,
        values: dict[str, list[object]],
    ) -> None:
        first, files = orders.current_snapshot(), orders.iceberg().inspect.files()["file_path"].to_pylist()
        assert first is not None
        declared = contract(after, event, topic="orders", time="at", version=version)
        adopt_contract(declared, lake)
        rows = read_input(project, lake, declared).collect()
        assert [name for name in rows.columns if not name.startswith("_")] == list(after)
        assert rows.select(values.keys()).to_dict(as_series=False) == values
        assert orders.iceberg().inspect.files()["file_path"].to_pylist() == files
        assert {"size", "note"} <= set(orders.scan(first.id).collect_schema())

    def test_refuses_what_takes_a_field_away_until_its_version_rises(
        self, lake: Lake, orders: LakeTable
    ) -> None:
        with pytest.raises(Refused, match="size") as refused:
            adopt_contract(contract({"at": datetime, "total": int}, event, topic="orders", time="at"), lake)
        assert "version=2" in str(refused.value.remedy)

    def test_never_holds_another_type_under_one_name(self, lake: Lake, orders: LakeTable) -> None:
        fields = {**self.BEFORE, "size": str}
        with pytest.raises(Refused, match="the table cannot hold the events") as refused:
            adopt_contract(contract(fields, event, topic="orders", time="at", version=2), lake)
        assert "a new name" in str(refused.value.remedy)


class TestCurrentRows:
    BEFORE: ClassVar = {"id": int, "name": (str | None, None), "size": (int | None, None)}

    @pytest.fixture
    def shop(self, tmp_path: Path) -> Iterator[Shop]:
        shop = Shop(tmp_path)
        yield shop
        shop.log.close()

    @pytest.mark.parametrize(
        ("after", "version", "rows"),
        [
            ({**BEFORE, "more": (str | None, None)}, 1, [(1, "a", 7, None), (2, "b", 8, "m")]),
            ({"id": int, "name": (str | None, None)}, 2, [(1, "a"), (2, "b")]),
            (
                {"id": int, "size": (int | None, None), "name": (str | None, None)},
                1,
                [(1, 7, "a"), (2, 8, "b")],
            ),
        ],
        ids=["add", "drop", "reorder"],
    )
    def test_are_made_again_with_the_fields_of_the_contract(
        self, shop: Shop, after: dict[str, Any], version: int, rows: list[tuple[object, ...]]
    ) -> None:
        self.declare(shop, self.BEFORE, 1)
        shop.ingest(change("c", 1, {"id": 1, "name": "a", "size": 7}))
        old = shop.build("1")
        before = shop.lake.table(shop.table.name).current_snapshot()
        assert before is not None
        self.declare(shop, after, version)
        shop.ingest(change("c", 2, {"id": 2, "name": "b", "size": 8, "more": "m"}))
        built = shop.build("2")
        assert [name for name in built.columns if not name.startswith("_")] == list(after)
        assert built.select(after.keys()).rows() == rows
        again = shop.lake.table(shop.table.name).scan(before.id).collect()
        assert again.columns == old.columns

    @staticmethod
    def declare(shop: Shop, fields: dict[str, Any], version: int) -> None:
        topic = shop.contract.topic
        shop.contract = contract(fields, changes, topic=topic, key=["id"], version=version)
        shop.table = current(shop.contract)
        settings = shop.project.settings
        shop.project = Project(settings, {topic: shop.contract}, {}, {shop.table.name: shop.table}, {}, {}, ())
