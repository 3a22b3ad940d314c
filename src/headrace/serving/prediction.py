"""The record of one prediction, as topic `headrace.predictions` holds it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from headrace.declare.event import contract_of, event

if TYPE_CHECKING:
    import polars as pl

    from headrace.lake import Lake

__all__ = ["REQUEST", "TABLE", "TOPIC", "Prediction", "Value", "number_requests", "scan_predictions"]

TOPIC = "headrace.predictions"
TABLE = "headrace_predictions"
"""The table that the topic is ingested to."""
REQUEST = ("at", "release", "arm", "number")
"""The columns whose values the predictions share that an arm made for one request (see number_requests)."""
Value = float | str | bool | list[Any] | dict[str, Any] | None
"""The answer of a model: a number or a label. That of an MLflow model may be any JSON value."""


@event(topic=TOPIC, time="at", identity=["id"], dedup_within="1d")
class Prediction(Struct, frozen=True):
    """One prediction, with its inputs.

    Attributes:
        id: a UUIDv7; the response carries it.
        model, version: the model that predicted, and its version.
        plan: the digest of the version's feature plan; empty for an MLflow model, which has none.
        arm: the release's arm, such as `champion`; `deployed` for an MLflow model.
        shadow: whether a shadow arm made it, so that no client received it.
        at: the time for which the features were looked up.
        instance: its index among the instances of the request, from 0.
        entity: entity key → value.
        request: the request's other fields.
        features: feature (`view__name`) → value as the model saw it; null if missing.
        value: the model's answer: the probability that the target is 1, a number, or of several classes the
            label of the most probable one.
        probabilities: label, as text → its probability; None where there are no classes.
        latency_ms: milliseconds that lookup and model took. Instances of one request that the same arm
            predicts are looked up and predicted together: they have the same latency.
        shared: whether the replica answered it together with other requests that had arrived: then its latency
            is not its own.
        missing: the features that were missing.
        positions: view → the position that its values were read at.
        release: the id of the release in force; for an MLflow model that of the model set.
        error: why there is no value: the code of a serving error, such as `feature_failed`, or `internal`. Then
            `value` is None. None: the prediction was answered.
        shadow_of: for a shadow's prediction, the id of the prediction that the client received.
    """

    id: str
    model: str
    version: int
    plan: str
    arm: str
    shadow: bool
    at: datetime
    instance: int
    entity: dict[str, Any]
    request: dict[str, Any]
    features: dict[str, Any]
    value: Value
    latency_ms: float
    missing: list[str]
    positions: dict[str, Any]
    release: str
    shadow_of: str | None = None
    probabilities: dict[str, float] | None = None
    error: str | None = None
    shared: bool = False


def scan_predictions(lake: Lake, snapshot: int | None = None) -> pl.LazyFrame:
    """The valid rows of the predictions' table, not yet read. Whatever reads the table reads it here.

    A column that the table does not have yet is null: an earlier version of Headrace made the table, and the
    ingest adds a column with the first rows that have it.

    Args:
        lake: the lake with the table.
        snapshot: the snapshot to read; the newest by default.

    Raises:
        CallError: the table or the snapshot does not exist.
    """
    import polars as pl

    from headrace.events.contracts.shape import table_schema

    contract = contract_of(Prediction)
    assert contract is not None
    rows = lake.table(TABLE).scan(snapshot)
    stored = rows.collect_schema()
    return rows.filter("_valid").with_columns(
        pl.lit(None, dtype).alias(name)
        for name, dtype in pl.Schema(table_schema(contract)).items()
        if name not in stored
    )


def number_requests(rows: pl.DataFrame) -> pl.DataFrame:
    """Adds `number`: which of the requests that an arm answered at one moment a prediction belongs to.

    Single requests of one turn are looked up together. In each of them the instance has the index 0, while the
    instances of one request have different indexes.
    """
    import polars as pl

    occurrence = pl.int_range(pl.len()).over("at", "release", "arm", "instance", order_by="id")
    return rows.with_columns(number=occurrence)
