"""Predictions joined with their outcomes: an oracle in plain Python decides, prediction by prediction."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace import Outcomes, Struct, event
from headrace.kernel.errors import ProjectError
from headrace.serving.outcomes import join_outcomes

NOON = datetime(2026, 4, 3, 12, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


@event(topic="decisions", time="decided_at")
class Decision(Struct):
    customer: str
    branch: int
    decided_at: datetime
    is_gone: bool
    prediction: str | None = None


BY_ENTITY = Outcomes(Decision, value="is_gone", within="10m")
BY_ID = Outcomes(Decision, value="is_gone", within="10m", prediction="prediction")


def minutes(number: int) -> datetime:
    return NOON + timedelta(minutes=number)


def predictions_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema = {"id": pl.String, "shadow_of": pl.String, "at": INSTANT, "entity": pl.String, "arm": pl.String}
    entities = [json.dumps({"customer": row["customer"], "branch": row["branch"]}) for row in rows]
    return pl.DataFrame(
        {
            "id": [row["id"] for row in rows],
            "shadow_of": [row.get("shadow_of") for row in rows],
            "at": [minutes(row["at"]) for row in rows],
            "entity": entities,
            "arm": ["champion"] * len(rows),
        },
        schema=schema,
    )


def events_of(rows: list[dict[str, Any]]) -> pl.LazyFrame:
    schema = {"customer": pl.String, "branch": pl.Int64, "decided_at": INSTANT, "is_gone": pl.Boolean}
    schema |= {"prediction": pl.String, "_arrived_at": INSTANT}
    schema |= {"_log_partition": pl.Int32, "_log_offset": pl.Int64}
    columns = {
        "customer": [row["customer"] for row in rows],
        "branch": [row["branch"] for row in rows],
        "decided_at": [minutes(row["at"]) for row in rows],
        "is_gone": [row["is_gone"] for row in rows],
        "prediction": [row["prediction"] for row in rows],
        "_arrived_at": [minutes(40 + row["arrived"] // 4) for row in rows],  # four are appended together
        "_log_partition": [0] * len(rows),
        "_log_offset": [row["arrived"] for row in rows],
    }
    return pl.LazyFrame(columns, schema=schema)


def find_outcome(prediction: dict[str, Any], events: list[dict[str, Any]], *, by_id: bool) -> tuple[Any, Any]:
    """By the definition: the first event in the window; of one time the last that arrived."""
    if by_id:
        of_it = [e for e in events if e["prediction"] == (prediction.get("shadow_of") or prediction["id"])]
    else:
        keys = ("customer", "branch")
        of_it = [
            e for e in events if all(e[key] == prediction[key] for key in keys) and e["at"] >= prediction["at"]
        ]
    of_it = [e for e in of_it if e["is_gone"] is not None]
    if not of_it:
        return None, None
    first = min(of_it, key=lambda e: (e["at"], -e["arrived"]))
    if first["at"] > prediction["at"] + 10:
        return None, None
    return first["is_gone"], minutes(first["at"])


KEYS = {"customer": st.sampled_from("ab"), "branch": st.integers(1, 2)}
PREDICTIONS = st.lists(
    st.fixed_dictionaries({**KEYS, "at": st.integers(0, 30), "shadow_of": st.sampled_from([None, "p0"])}),
    max_size=6,
)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            **KEYS,
            "at": st.integers(0, 30),
            "is_gone": st.sampled_from([True, False, None]),
            "prediction": st.sampled_from([None, "p0", "p1", "p2"]),
        }
    ),
    max_size=8,
)


@pytest.mark.parametrize("declared", [BY_ENTITY, BY_ID], ids=["entity", "id"])
@given(predictions=PREDICTIONS, events=EVENTS)
@example(predictions=[], events=[])
@example(
    predictions=[{"customer": "a", "branch": 1, "at": 5, "shadow_of": None}],
    events=[
        {"customer": "a", "branch": 1, "at": at, "is_gone": at == 15, "prediction": "p0"}
        for at in (15, 4, 15, 16)
    ],
)
@example(  # the second is corrected by the first, which follows it in the same append
    predictions=[{"customer": "a", "branch": 1, "at": 5, "shadow_of": None}],
    events=[
        {"customer": "a", "branch": 1, "at": 15, "is_gone": is_gone, "prediction": "p0"}
        for is_gone in (True, False)
    ],
)
def test_each_prediction_has_the_first_outcome_of_its_window(
    declared: Outcomes, predictions: list[dict[str, Any]], events: list[dict[str, Any]]
) -> None:
    predictions = [{**row, "id": f"p{number}"} for number, row in enumerate(predictions)]
    # They arrive in another order than they happened, and lie in the table in another order than they arrived.
    events = [{**row, "arrived": 11 - number} for number, row in enumerate(events)]
    given_rows = predictions_of(predictions)
    joined = join_outcomes(given_rows, events_of(events), declared)
    assert joined.drop("outcome", "outcome_at").equals(given_rows)
    wanted = [find_outcome(row, events, by_id=declared is BY_ID) for row in predictions]
    assert joined.select("outcome", "outcome_at").rows() == wanted


def test_a_key_that_the_events_lack_or_have_otherwise_is_named() -> None:
    rows = predictions_of([{"id": "p0", "at": 0, "customer": "a", "branch": 1}])
    with pytest.raises(
        ProjectError, match="entity key 'branch', which is not a field of its events"
    ) as refused:
        join_outcomes(rows, events_of([]).drop("branch"), BY_ENTITY)
    assert "test_outcomes.py:" in str(refused.value.where)
    other = events_of([]).with_columns(pl.col("customer").cast(pl.Int64))
    with pytest.raises(
        ProjectError, match="'customer', which is String in the predictions and Int64 in the events"
    ):
        join_outcomes(rows, other, BY_ENTITY)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_an_outcome_that_is_no_number_does_not_count(number) -> None:
    rows = predictions_of([{"id": "p0", "at": 0, "customer": "a", "branch": 1}])
    event = {"customer": "a", "branch": 1, "is_gone": True, "prediction": None}
    events = events_of([event | {"at": at, "arrived": at} for at in (1, 2)])
    events = events.with_columns(is_gone=pl.when(pl.col("_log_offset") == 1).then(number).otherwise(7.5))
    assert join_outcomes(rows, events, BY_ENTITY)["outcome"].to_list() == [7.5]


def test_a_prediction_of_other_keys_has_no_outcome() -> None:
    rows = predictions_of([{"id": f"p{n}", "at": 0, "customer": "a", "branch": 1} for n in range(2)])
    rows = rows.with_columns(entity=pl.Series([rows["entity"][0], '{"customer": "a"}']))
    events = events_of(
        [{"customer": "a", "branch": 1, "at": 1, "is_gone": True, "prediction": None, "arrived": 40}]
    )
    assert join_outcomes(rows, events, BY_ENTITY)["outcome"].to_list() == [True, None]
