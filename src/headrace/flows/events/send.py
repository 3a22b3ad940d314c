"""send: the events of a CSV, NDJSON or Parquet file onto a topic.

The lines of an NDJSON file are the events, to the byte; rows of the others are written as JSON. Nothing is
judged here: what is broken in the file is broken on the log, and ingest says so. But a file whose rows
cannot be state apart is refused before the first of them is sent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

from headrace import log
from headrace.config.settings import Settings
from headrace.events import formats
from headrace.events.contracts.shape import shape_of
from headrace.events.files import check_file, read_events
from headrace.events.shift import TimeShift
from headrace.events.verdicts.keys import key_reader
from headrace.kernel.errors import CallError, HeadraceError
from headrace.kernel.run import Dataset, run
from headrace.projects.project import load_project

__all__ = ["SendReport", "send"]

_BATCH = 20_000


@dataclass(frozen=True)
class SendReport:
    """What was sent.

    Attributes:
        topic: where to.
        events: how many.
        seconds: wall time.
        shifted: by how much times were moved, or None.
        too_large: the events that the topic does not take, by their number in the file, from 1 on. All
            others were sent.
        early: how many moved times are read an hour too early: without a zone an hour that the clocks
            show twice is read as the first.
    """

    topic: str
    events: int
    seconds: float
    shifted: timedelta | None
    too_large: tuple[int, ...]
    early: int


def send(
    settings: Settings,
    topic: str,
    file: Path,
    *,
    rate: float | None = None,
    shift_to_now: bool = False,
    skip: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> SendReport:
    """Sends every row of the file; each batch is durable on the log before the next is read.

    Args:
        settings: whose project.
        topic: a topic that has a contract: its key chooses the log partition.
        file: .csv, .ndjson, .jsonl or .parquet.
        rate: at most so many events a second.
        shift_to_now: moves the contract's time of all events by one whole number of seconds, so that
            the last is now; each keeps its spelling. A time that cannot be read stays.
        skip: leaves out so many events at the beginning of the file, which were sent before.
        progress: gets how many have been sent so far.

    Raises:
        CallError: there is no such file or topic, the file is of another kind or cannot be read to its end,
            or the topic's events are not written as JSON. Nothing was sent.
        HeadraceError: the log failed; the remedy says how many events of the file it has.
    """
    _check_options(rate, skip)
    contract = load_project(settings, without=("feast",)).contract(topic)
    if not formats.find(contract).plain_json:
        raise CallError(
            f"send writes JSON, and the events of {topic!r} have the format {contract.format!r}",
            where=str(contract.place),
            remedy="Put them on the log with a producer of that format.",
        )
    begun = time.perf_counter()
    keys_of = key_reader(contract, formats.open(contract))
    sent, shift, large = 0, None, list[int]()
    size = _BATCH if rate is None else max(1, min(_BATCH, int(rate / 10)))
    with run(f"send {topic}", [Dataset("file", file.name)]) as this, _say_how_far(lambda: skip + sent, file):
        check_file(file)
        if shift_to_now:
            shift = TimeShift(contract, _batches(read_events(file), _BATCH), str(file))
        opened = log.open(settings.log.url)
        try:
            opened.create(topic, contract.partitions, contract.retention)
            for events in _batches(islice(read_events(file), skip, None), size):
                values = events if shift is None else shift.move(events)
                positions = log.append_fitting(opened, topic, values, keys_of(values))
                large += [skip + sent + at for at, position in enumerate(positions, 1) if position is None]
                sent += len(values)
                progress(sent)
                if rate is not None:
                    time.sleep(max(0.0, begun + sent / rate - time.perf_counter()))
        finally:
            opened.close()
        schema = {field.name: str(field.type) for field in shape_of(contract).schema}
        this.add_output(Dataset("topic", topic, facts={"rows": sent - len(large), "schema": schema}))
    moved, early = (None, 0) if shift is None else (shift.by, shift.early)
    return SendReport(topic, sent - len(large), time.perf_counter() - begun, moved, tuple(large), early)


def _check_options(rate: float | None, skip: int) -> None:
    if rate is not None and rate <= 0:
        raise CallError("--rate must be greater than 0", where=f"--rate {rate:g}")
    if skip < 0:
        raise CallError("--skip must not be negative", where=f"--skip {skip}")


def _batches(events: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(islice(events, size)):
        yield batch


@contextlib.contextmanager
def _say_how_far(sent: Callable[[], int], file: Path) -> Iterator[None]:
    """An error says how much of the file had been sent before it, and how to go on."""
    try:
        yield
    except HeadraceError as error:
        count = sent()
        if count:
            state = f"The first {count:,} events of {file.name} are on the topic: go on with --skip {count}."
        else:
            state = f"Nothing of {file.absolute().name} has been sent."
        error.remedy = state if error.remedy is None else f"{error.remedy}\n{state}"
        raise
