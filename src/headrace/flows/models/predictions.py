"""Predictions: one logged prediction by its id, wherever on its way it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec
import polars as pl

from headrace.config.settings import Settings
from headrace.events.ingest.position import stored_position
from headrace.kernel.errors import CallError
from headrace.kernel.ids import id_time
from headrace.lake import Lake
from headrace.log import Log
from headrace.log.follow import read_to_end
from headrace.serving.prediction_log import TOPIC, Prediction, spooled

__all__ = ["TABLE", "Place", "find"]

TABLE = "headrace_predictions"
Place = Literal["table", "log", "spool"]
_AROUND = timedelta(minutes=10)  # an id is made within this of the moment its features were looked up
_READ = 10_000
_decode = msgspec.json.Decoder(Prediction).decode
_JSON = {"entity", "request", "features", "positions"}


def find(settings: Settings, lake: Lake, log: Log, prediction_id: str) -> tuple[Prediction, Place]:
    """The prediction and where it was found: in its table, on the log, or still in a replica's spool.

    Raises:
        CallError: the id is none, or there is no such prediction.
    """
    try:
        text = str(UUID(prediction_id))
        made = id_time(text)
    except ValueError:
        raise CallError(
            f"{prediction_id!r} is no prediction's id", remedy="It is the `id` of an answer, a UUIDv7."
        ) from None
    spool = settings.place("serving", "spool")
    looks: list[tuple[Place, Callable[[], Prediction | None]]] = [
        ("table", lambda: _in_table(lake, text, made)),
        ("log", lambda: _in(_unread(lake, log), text)),
        ("spool", lambda: _in(spooled(spool), text)),
        ("log", lambda: _in(_unread(lake, log), text)),  # it may have been shipped between the looks
    ]
    for place, look in looks:
        found = look()
        if found is not None:
            return found, place
    raise CallError(
        f"there is no prediction {text}",
        where=f"project {settings.project}, profile {settings.profile_name}",
        remedy=f"It would have been made at {made:%Y-%m-%d %H:%M:%S} UTC. Is this its project and profile?",
    )


def _in_table(lake: Lake, id: str, made: datetime) -> Prediction | None:
    if not lake.table_exists(TABLE):
        return None
    rows = (
        lake.table(TABLE)
        .scan()
        .filter(pl.col("_valid"), pl.col("at").is_between(made - _AROUND, made + _AROUND), pl.col("id") == id)
        .limit(1)
        .collect()
    )
    if rows.is_empty():
        return None
    row = rows.select(Prediction.__struct_fields__).row(0, named=True)
    # What is no plain value is kept in the table as JSON text.
    row |= {name: msgspec.json.decode(row[name]) for name in _JSON}
    return msgspec.convert(row, Prediction)


def _unread(lake: Lake, log: Log) -> Iterable[bytes]:
    """What is on the log and not yet in the table."""
    if TOPIC not in log.topics():
        return
    offsets = dict.fromkeys(range(log.partitions(TOPIC)), 0)
    position = stored_position(lake.table(TABLE)) if lake.table_exists(TABLE) else None
    if position is not None and position.log_id == log.identity(TOPIC):
        offsets |= position.offsets
    for batch in read_to_end(log, TOPIC, offsets, _READ):
        yield from batch.values


def _in(values: Iterable[bytes], id: str) -> Prediction | None:
    wanted = id.encode()
    for value in values:
        if wanted not in value:
            continue
        try:
            one = _decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if one.id == id:
            return one
    return None
