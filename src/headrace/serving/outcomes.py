"""Joins predictions with their outcomes: the events that say what really happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.declare.outcomes import Outcomes
from headrace.kernel.errors import ProjectError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["join_outcomes"]

_PLACE = "__place"
_ARRIVAL = ("_arrived_at", "_log_partition", "_log_offset")  # the events of one append have one time
_Keys = dict[str, list[Any]]


def join_outcomes(predictions: pl.DataFrame, events: pl.LazyFrame, declared: Outcomes) -> pl.DataFrame:
    """Adds to each prediction its outcome, if it is known (see declare.outcomes.Outcomes).

    Args:
        predictions: `id`, `shadow_of`, `at` (a UTC datetime) and `entity` (JSON text) of the predictions of one
            model, and any other columns.
        events: the good rows of the outcomes' topic (tables.read.read_input).
        declared: which events are outcomes, and of which predictions.

    Returns:
        The predictions in their order, with `outcome` (the event's value) and `outcome_at` (its time); both are
        null while it is not known. The prediction of a shadow has the outcome of the prediction that the client
        received.

    Raises:
        ProjectError: the events lack an entity key of the predictions, or have it with another type.
    """
    import polars as pl

    if declared.prediction is not None:
        ids = predictions.select(pl.coalesce("shadow_of", "id")).to_series()
        keys: _Keys = {declared.prediction: ids.to_list()}
    else:
        keys = _entity_keys(predictions["entity"])
    _check_keys(keys, events, declared)
    if predictions.is_empty():  # no prediction says what the keys are
        types = events.collect_schema()
        return predictions.with_columns(
            outcome=pl.lit(None, types[declared.value]), outcome_at=pl.lit(None, types[declared.event.time])
        )
    by = [f"__key_{number}" for number in range(len(keys))]  # a key may have the name of a column here
    known = _read_outcomes(events, declared, dict(zip(by, keys, strict=True)))
    rows = predictions.select("at").with_row_index(_PLACE)
    rows = rows.with_columns(
        pl.Series(column, values, known.schema[column])
        for column, values in zip(by, keys.values(), strict=True)
    )
    if declared.prediction is not None:
        first = known.unique(by, keep="first", maintain_order=True)
        matches = rows.join(first, on=by).filter(pl.col("outcome_at") <= pl.col("at") + declared.within)
    else:
        matches = rows.sort("at").join_asof(
            known,
            left_on="at",
            right_on="outcome_at",
            by=by,
            strategy="forward",
            tolerance=declared.within,
            coalesce=False,
            check_sortedness=False,
        )
    outcomes = rows.select(_PLACE).join(matches.select(_PLACE, "outcome", "outcome_at"), on=_PLACE, how="left")
    return predictions.hstack(outcomes.sort(_PLACE).select("outcome", "outcome_at"))


def _read_outcomes(events: pl.LazyFrame, declared: Outcomes, keys: Mapping[str, str]) -> pl.DataFrame:
    """`outcome` and `outcome_at` of the events in order of time, with their keys under other names: name here →
    field."""
    import polars as pl

    return (
        events.select(
            *(pl.col(field).alias(name) for name, field in keys.items()),
            pl.col(declared.event.time).alias("outcome_at"),
            pl.col(declared.value).alias("outcome"),
            *_ARRIVAL,
        )
        .with_columns(outcome=_drop_no_numbers(events.collect_schema()[declared.value]))
        .drop_nulls([*keys, "outcome_at", "outcome"])
        .sort("outcome_at", *_ARRIVAL)
        .unique([*keys, "outcome_at"], keep="last", maintain_order=True)
        .drop(_ARRIVAL)
        .collect()
    )


def _drop_no_numbers(dtype: pl.DataType) -> pl.Expr:
    """The outcome, of this type; null where it is NaN or infinite."""
    import polars as pl

    outcome = pl.col("outcome")
    return pl.when(outcome.is_finite()).then(outcome) if dtype.is_float() else outcome


def _entity_keys(entities: pl.Series) -> _Keys:
    """Key → its value in each of the entities; None where an entity (of another version) lacks the key."""
    decoded = [msgspec.json.decode(text) for text in entities]
    names = dict.fromkeys(name for entity in decoded for name in entity)
    return {name: [entity.get(name) for entity in decoded] for name in names}


def _check_keys(keys: _Keys, events: pl.LazyFrame, declared: Outcomes) -> None:
    """Raises ProjectError if the events lack a key, or have it with another type."""
    import polars as pl

    types = events.collect_schema()
    for name, values in keys.items():
        own = pl.Series(name, values).dtype
        if name not in types:
            problem = "is not a field of its events"
        elif own not in (types[name], pl.Null()):
            problem = f"is {own} in the predictions and {types[name]} in the events"
        else:
            continue
        raise ProjectError(
            f"outcomes of topic {declared.event.topic!r} are found by the entity key {name!r}, which {problem}",
            where=str(declared.event.place),
            remedy="Give the events this field, or the id of the prediction: Outcomes(..., prediction=FIELD).",
        )
