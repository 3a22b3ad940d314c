"""Finds a prediction by its id: in its table, on the log, or in a spool."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec
import polars as pl

from headrace.events.ingest.position import read_position
from headrace.kernel.errors import CallError
from headrace.kernel.ids import id_time
from headrace.lake import Lake
from headrace.log import Log
from headrace.log.follow import read_to_end
from headrace.serving.prediction import TABLE, TOPIC, Prediction, scan_predictions
from headrace.serving.spool import read_spool
from headrace.workspace import Workspace

__all__ = ["PredictionPlace", "find_prediction"]

PredictionPlace = Literal["table", "log", "spool"]
_AROUND = timedelta(minutes=10)  # between the time in an id and the time of its features
_READ = 10_000
_decode = msgspec.json.Decoder(Prediction).decode
_JSON_COLUMNS = {"entity", "request", "features", "positions", "value", "probabilities"}


def find_prediction(workspace: Workspace, prediction_id: str) -> tuple[Prediction, PredictionPlace]:
    """The prediction with this id, and its place: its table, the log, or a replica's spool.

    Raises:
        CallError: the id is not valid, or no prediction has it.
    """
    try:
        text = str(UUID(str(prediction_id)))
        time = id_time(text)
    except ValueError:
        raise CallError(
            f"{prediction_id!r} is not a valid prediction id", remedy="It is the `id` of a response, a UUIDv7."
        ) from None
    lake, log, settings = workspace.lake, workspace.log, workspace.settings
    spool = settings.place("serving", "spool")
    searches: list[tuple[PredictionPlace, Callable[[], Prediction | None]]] = [
        ("table", lambda: _find_in_table(lake, text, time)),
        ("log", lambda: _find_in(_read_unread(lake, log), text)),
        ("spool", lambda: _find_in(read_spool(spool), text)),
        ("log", lambda: _find_in(_read_unread(lake, log), text)),  # it may have been shipped meanwhile
    ]
    for place, search in searches:
        prediction = search()
        if prediction is not None:
            return prediction, place
    raise CallError(
        f"prediction {text} does not exist",
        where=f"project {settings.project}, profile {settings.profile_name}",
        remedy=f"Its id says {time:%Y-%m-%d %H:%M:%S} UTC. Is this its project and profile?",
    )


def _find_in_table(lake: Lake, id: str, time: datetime) -> Prediction | None:
    if not lake.table_exists(TABLE):
        return None
    rows = (
        scan_predictions(lake)
        .filter(pl.col("at").is_between(time - _AROUND, time + _AROUND), pl.col("id") == id)
        .limit(1)
        .collect()
    )
    if rows.is_empty():
        return None
    row = rows.select(Prediction.__struct_fields__).row(0, named=True)
    row |= {name: msgspec.json.decode(row[name]) for name in _JSON_COLUMNS if row[name] is not None}
    later = Prediction.__struct_fields__[-len(Prediction.__struct_defaults__) :]
    return msgspec.convert({k: v for k, v in row.items() if v is not None or k not in later}, Prediction)


def _read_unread(lake: Lake, log: Log) -> Iterable[bytes]:
    """The records on the log that are not yet in the table."""
    if TOPIC not in log.topics():
        return
    offsets = dict.fromkeys(range(log.partitions(TOPIC)), 0)
    position = read_position(lake.table(TABLE)) if lake.table_exists(TABLE) else None
    if position is not None and position.log_id == log.identity(TOPIC):
        offsets |= position.offsets
    for batch in read_to_end(log, TOPIC, offsets, _READ):
        yield from batch.values


def _find_in(records: Iterable[bytes], id: str) -> Prediction | None:
    """The prediction with this id among encoded records. Invalid records are skipped."""
    encoded_id = id.encode()
    for record in records:
        if encoded_id not in record:
            continue
        try:
            prediction = _decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if prediction.id == id:
            return prediction
    return None
