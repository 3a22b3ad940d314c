"""@changes: the contract that it declares, and the errors of invalid declarations."""

from __future__ import annotations

from typing import Any

import pytest

from headrace import Struct, changes, current
from headrace.declare.event import contract_of
from headrace.kernel.errors import ProjectError


class Row(Struct):
    id: int
    maybe: int | None = None


def test_the_contract_is_one_of_changes() -> None:
    declared = changes(topic="shop.public.rows", key=["id"])(type("R", (Row,), {"__module__": __name__}))
    contract = contract_of(declared)
    assert contract is not None
    assert (contract.format, contract.row_key, contract.time) == ("debezium", ("id",), "_changed_at")
    assert contract.identity == ("id", "_lsn", "_op", "_changed_at")
    assert contract.struct.__struct_fields__[:3] == ("id", "maybe", "_op")
    assert current(declared) is current(contract)
    assert current(declared).name == "shop_public_rows_current"


@pytest.mark.parametrize(
    ("topic", "key", "fields", "message"),
    [
        ("rows", ["id"], {}, "PREFIX.SCHEMA.TABLE"),
        ("shop.public.", ["id"], {}, "PREFIX.SCHEMA.TABLE"),
        ("shop.public.rows", [], {}, "primary key"),
        ("shop.public.rows", "id", {}, "lists the columns"),
        ("shop.public.rows", ["nothing"], {}, "is not a field of R"),
        ("shop.public.rows", ["maybe"], {}, "cannot be null"),
        ("shop.public.rows", ["id"], {"__annotations__": {"_op": "str"}, "_op": ""}, "begins with _"),
        ("shop.public.rows", ["id"], {"__post_init__": lambda self: None}, "__post_init__"),
    ],
)
def test_an_invalid_declaration_is_refused(topic: str, key: Any, fields: dict[str, Any], message: str) -> None:
    struct = type("R", (Row,), {"__module__": __name__, **fields})
    with pytest.raises(ProjectError, match=message):
        changes(topic=topic, key=key)(struct)


def test_an_unknown_unit_of_time_is_refused() -> None:
    struct = type("R", (Row,), {"__module__": __name__})
    with pytest.raises(ProjectError, match="time_unit='s' is not ms, us or ns"):
        changes(topic="shop.public.rows", key=["id"], time_unit="s")(struct)  # type: ignore[arg-type]


def test_only_a_class_under_changes_has_current_rows() -> None:
    with pytest.raises(ProjectError, match="needs a class under @changes"):
        current(Row)
