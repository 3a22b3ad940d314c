"""The fields of a request in Feast's get_online_features: each is of its type, or an error names it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from headrace.features.feast import apply
from headrace.kernel.errors import CallError
from headrace.projects.project import Project

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
# The function shows what reaches it.
SEEN = """
from feast.types import Array, Bool, UnixTimestamp
told = RequestSource(name="told", schema=[Field(name="amount", dtype=Float64), Field(name="count", dtype=Int64),
    Field(name="text", dtype=String), Field(name="flag", dtype=Bool), Field(name="since", dtype=UnixTimestamp),
    Field(name="sizes", dtype=Array(Float64))])

@on_demand_feature_view(sources=[told], schema=[Field(name="seen", dtype=String)], mode="python",
    singleton=True)
def shown(inputs):
    names = ("amount", "count", "text", "flag", "since", "sizes")
    return {"seen": " ".join(repr(inputs[name]) for name in names)}
"""
ROW = {"amount": 2.5, "count": 7, "text": "a", "flag": True, "since": AT, "sizes": [1.5]}
SHOWN = ["2.5", "7", "'a'", "True", repr(AT), "[1.5]"]
COUNTED = """

@on_demand_feature_view(sources=[told], schema=[Field(name="half", dtype=Float64)], mode="python")
def halved(inputs):
    return {"half": [None if amount is None else amount / 2 for amount in inputs["amount"]]}
"""
ROLE = "a request field of on-demand view 'shown',"


@pytest.fixture
def store(small: Callable[..., Project]) -> FeatureStore:
    return FeatureStore(repo_path=str(apply(small(("TIMES = 1.0", f"TIMES = 1.0{SEEN}{COUNTED}"))).folder))


def read(store: FeatureStore, rows: Any) -> list[str]:
    values: list[str] = store.get_online_features(["shown:seen"], rows).to_dict()["seen"]
    return values


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("amount", 1, "1.0"),
        ("amount", np.float32(0.5), "0.5"),
        ("count", 8.0, "8"),
        ("count", np.int64(8), "8"),
        ("flag", np.bool_(0), "False"),
        ("since", AT.replace(tzinfo=None), SHOWN[4]),
        ("since", pd.Timestamp(AT), SHOWN[4]),
        ("since", np.datetime64("2026-03-01T12:00:00"), SHOWN[4]),
        ("since", "2026-03-01T13:00:00+01:00", SHOWN[4]),
        ("sizes", np.array([2, 3]), "[2.0, 3.0]"),
        ("sizes", (2,), "[2.0]"),
    ],
)
def test_a_request_field_has_the_type_of_its_field(
    store: FeatureStore, name: str, value: Any, shown: str
) -> None:
    """Feast gives all rows the type of the first row's value: 2.5 would be 2 beside a 1."""
    place = list(ROW).index(name)
    expected = [" ".join([*SHOWN[:place], shown, *SHOWN[place + 1 :]]), " ".join(SHOWN)]
    rows = [ROW | {name: value}, ROW]
    assert read(store, rows) == expected
    assert read(store, {field: [row[field] for row in rows] for field in ROW}) == expected
    assert rows[1] == ROW


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("amount", None, "null"),
        ("amount", float("nan"), "null"),
        ("amount", "2.5", "'2.5' (str)"),
        ("amount", True, "True (bool)"),
        ("amount", 10**400, "1000"),
        ("count", 2.5, "2.5 (float)"),
        ("count", 2**63, "9223372036854775808 (int)"),
        ("count", pd.NA, "null"),
        ("text", 5, "5 (int)"),
        ("flag", 1, "1 (int)"),
        ("since", pd.NaT, "null"),
        ("since", "yesterday", "'yesterday' (str)"),
        ("since", 5, "5 (int)"),
        ("sizes", 2.5, "2.5 (float)"),
        ("sizes", [None], "[None] (list)"),
        ("sizes", ["a"], "['a'] (list)"),
        ("sizes", [], "an empty list, whose type Feast cannot tell,"),
    ],
)
def test_a_request_field_that_is_null_or_of_another_type_is_refused_by_name(
    store: FeatureStore, name: str, value: Any, problem: str
) -> None:
    rows = [ROW, ROW | {name: value}]
    for asked in (rows, {field: [row[field] for row in rows] for field in ROW}):
        with pytest.raises(CallError) as refused:
            read(store, asked)
        assert refused.value.what.startswith(f"{name!r}, {ROLE} is {problem}"), refused.value.what
        assert refused.value.what.endswith(" in row 1 of entity_rows")
        assert refused.value.remedy


def test_a_request_field_that_is_missing_or_misspelt_is_named(store: FeatureStore) -> None:
    misspelt = {"ammount" if name == "amount" else name: value for name, value in ROW.items()}
    asked: list[tuple[Any, str]] = [
        ([ROW, misspelt], "row 1 of entity_rows"),
        ([misspelt], "row 0 of entity_rows"),
        ({name: [value] for name, value in misspelt.items()}, "entity_rows"),
    ]
    for rows, where in asked:
        with pytest.raises(CallError) as refused:
            read(store, rows)
        assert refused.value.what == f"'amount', {ROLE} is missing in {where}"
        assert refused.value.remedy == (
            "Give it, a float64, in each row; the row has ammount, count, text, flag, since, sizes."
        )


def test_a_version_names_itself_in_the_error(store: FeatureStore) -> None:
    with pytest.raises(CallError, match="'price', a request field of on-demand view 'moment@v0', is null"):
        store.get_online_features(["moment@v0:ratio"], [{"item": "a", "price": None}])


def test_several_rows_of_views_with_and_without_singleton(store: FeatureStore) -> None:
    """Feast computes a singleton view for the first row alone."""
    rows = [ROW | {"amount": amount} for amount in (1, 2.5, 4)]
    features = ["shown:seen", "halved:half"]
    for asked in (rows, {name: [row[name] for row in rows] for name in ROW}):
        read = store.get_online_features(features, asked)
        assert read.to_df()["half"].tolist() == [0.5, 1.25, 2.0]
        assert [text.split()[0] for text in read.to_df()["seen"]] == ["1.0", "2.5", "4.0"]
    assert store.get_online_features(["halved:half"], rows).to_dict()["half"] == [0.5, 1.25, 2.0]
