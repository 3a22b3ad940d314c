"""send: appends the events of a CSV, NDJSON or Parquet file to a topic.

The lines of an NDJSON file are sent byte for byte; rows of other formats are written as JSON. Ingest judges the
events, so an invalid event is sent as it is. But a file that cannot be divided into rows is refused before its
first row is sent.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path

from msgspec import Struct, field

from headrace.declare.event import Contract
from headrace.events import formats
from headrace.events.contracts.shape import shape_of
from headrace.events.files import check_file, read_events
from headrace.events.shift import TimeShift
from headrace.events.verdicts.keys import key_reader
from headrace.flows.events.earlier_sends import EarlierSend, describe_file, describe_repeats, find_earlier
from headrace.kernel.counts import plural
from headrace.kernel.errors import CallError, HeadraceError, NotAppended, Refused, Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.properties import HISTORY
from headrace.kernel.run import Dataset, Run, record_with, run
from headrace.lineage.recorder import OutboxRecorder
from headrace.log import Log, append_fitting
from headrace.workspace import Workspace

__all__ = ["SendReport", "send"]

_BATCH = 20_000
_SECOND = timedelta(seconds=1)


class SendReport(Struct, frozen=True):
    """What was sent.

    Attributes:
        topic: the topic.
        events: how many events were sent.
        seconds: wall time.
        shifted: the distance by which times were moved; None if they were not.
        too_large: the numbers in the file, from 1 on, of the events that are larger than the topic accepts.
            All others were sent.
        early: how many moved times will be read an hour too early: they have no zone, and lie in the second of
            two hours that the clocks show alike.
        earlier: the last earlier send of these events to this topic; None: there is none on record.
        is_recorded: whether this send is on record, so that a later one can tell of it. It is not if the state
            folder cannot be written.
    """

    topic: str
    events: int
    seconds: float
    shifted: timedelta | None
    too_large: tuple[int, ...]
    early: int
    earlier: EarlierSend | None = None
    is_recorded: bool = True


def send(
    workspace: Workspace,
    topic: str,
    file: Path,
    *,
    rate: float | None = None,
    shift_to_now: bool = False,
    shift_by: timedelta | None = None,
    skip: int = 0,
    live: bool = False,
    tell: Callable[[EarlierSend | None, bool], None] = lambda *_: None,
    progress: Callable[[int], None] = lambda _: None,
) -> SendReport:
    """Sends every row of the file. Each batch is durable on the log before the next one is read.

    Args:
        workspace: the project.
        topic: a topic with a contract, whose key chooses the log partition.
        file: .csv, .ndjson, .jsonl or .parquet.
        rate: the most events per second.
        shift_to_now: move the times of all events by the same whole number of seconds, so that the last one is
            now. Each time keeps its format. A time that cannot be parsed is not changed.
        shift_by: move the times by this distance instead.
        skip: how many events at the beginning of the file to leave out, because they were sent before.
        live: whether the events happen now, as far as features are concerned: each is known from its arrival
            on the log. Otherwise they are history: each is known from its own time (properties.HISTORY).
        tell: called before anything is sent, with the `earlier` and `is_recorded` of the report.
        progress: called with the number of events sent so far.

    Raises:
        CallError: the file or topic does not exist, the file is of another kind or cannot be read to its end,
            the topic's events are not JSON, or two options exclude each other. Nothing was sent.
        HeadraceError: the log failed; the remedy says how many events of the file it has, and how to continue.
    """
    _check_options(rate, skip, shift_to_now, shift_by)
    contract = workspace.project.contract(topic)
    _check_format(contract)
    started, shift = time.perf_counter(), None if shift_by is None else TimeShift(contract, shift_by)
    sending = _Sending(contract, file, skip, rate, shift, live)
    schema = {column.name: str(column.type) for column in shape_of(contract).schema}
    with (
        workspace.lineage.recorder() as recorder,
        record_with(recorder),
        run(f"send {topic}", writes=[Dataset("topic", topic, facts={"schema": schema})]) as this_run,
        sending.report_errors(),
    ):
        check_file(file)
        dataset = describe_file(workspace.settings.root, file)
        this_run.add_input(dataset)
        if shift_to_now:
            sending.shift = TimeShift.to_now(contract, _batches(read_events(file), _BATCH), str(file))
        earlier, is_recorded = _start(workspace, this_run, recorder, sending, dataset)
        tell(earlier, is_recorded)
        try:
            sending.append_to(workspace.log, progress)
        finally:
            this_run.add_facts(**sending.facts)
            if sending.sent:
                this_run.add_output(Dataset("topic", topic, facts={"rows": sending.rows, "schema": schema}))
    return _report(sending, time.perf_counter() - started, earlier, is_recorded and not recorder.dropped)


class _Sending(Struct):
    """The state of sending one file: `sent` counts events, `pending` those of the batch that is being appended,
    and `too_large` has numbers of events in the file."""

    contract: Contract
    file: Path
    skip: int
    rate: float | None
    shift: TimeShift | None
    live: bool
    sent: int = 0
    pending: int = 0
    too_large: list[int] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, int | None]:
        """What a later send needs (earlier_sends): the events that this one sends are numbered from `skip` on,
        those before `end` are sent, and `pending` after these may be."""
        seconds = None if self.shift is None else self.shift.by // _SECOND
        return {"skip": self.skip, "end": self.skip + self.sent, "pending": self.pending, "shift": seconds}

    @property
    def rows(self) -> int:
        """How many events the topic has of it."""
        return self.sent - len(self.too_large)

    def append_to(self, log: Log, progress: Callable[[int], None]) -> None:
        """Appends the events of the file, batch by batch."""
        started = time.perf_counter()
        keys_of = key_reader(self.contract, formats.open(self.contract))
        size = _BATCH if self.rate is None else max(1, min(_BATCH, int(self.rate / 10)))
        for events in _batches(islice(read_events(self.file), self.skip, None), size):
            values = events if self.shift is None else self.shift.move(events)
            headers = None if self.live else [{HISTORY: b"1"}] * len(values)
            keys, self.pending = keys_of(values), len(values)
            try:
                positions = append_fitting(log, self.contract.topic, values, keys, headers)
            except (NotAppended, Refused):
                self.pending = 0
                raise
            first = self.skip + self.sent + 1
            self.too_large += [at for at, position in enumerate(positions, first) if position is None]
            reach("send.batch")
            self.sent, self.pending = self.sent + len(values), 0
            progress(self.sent)
            if self.rate is not None:
                time.sleep(max(0.0, started + self.sent / self.rate - time.perf_counter()))

    @contextlib.contextmanager
    def report_errors(self) -> Iterator[None]:
        """Adds to the remedy of an error how many events were sent before it, and how to continue."""
        try:
            yield
        except HeadraceError as error:
            state = self._describe_state()
            error.remedy = state if error.remedy is None else f"{error.remedy}\n{state}"
            raise

    def _describe_state(self) -> str:
        """Says what the topic has of the file after an error, and how to continue."""
        count = self.skip + self.sent
        options = f"--skip {count}"
        if self.shift is not None:  # with --shift-to-now the rest would be moved by another distance
            options += f" --shift-by {self.shift.by // _SECOND}"
        name = self.file.absolute().name
        if count:
            state = (
                f"The first {plural(count, 'event')} of {name} {'is' if count == 1 else 'are'} on the topic:"
                f" continue with {options}."
            )
        else:
            state = f"Nothing of {name} has been sent."
        if not self.pending:
            return state
        state = state if count else f"Send {name} again" + (f" with {options}." if self.shift else ".")
        return (
            f"{state} The log did not say whether it has the {'next' if count else 'first'}"
            f" {plural(self.pending, 'event')}: if so, {describe_repeats(self.contract)}."
        )


def _start(
    workspace: Workspace, this_run: Run, recorder: OutboxRecorder, sending: _Sending, dataset: Dataset
) -> tuple[EarlierSend | None, bool]:
    """Creates the topic, and records how the run begins, so that a later send finds it even if this one is
    killed, and of two at once one finds the other. Returns the earlier send, and whether this one is recorded.
    """
    contract = sending.contract
    workspace.log.create(contract.topic, contract.partitions, contract.retention)
    this_run.add_facts(log=workspace.log.identity(contract.topic), **sending.facts)
    this_run.report_running(timedelta(0))
    is_recorded = recorder.flush() and not recorder.dropped
    try:
        return find_earlier(workspace.lineage, this_run, sending.file, dataset, contract), is_recorded
    except Unavailable:  # the lineage store cannot be read; what cannot be told does not stop a send
        return None, False


def _report(sending: _Sending, seconds: float, earlier: EarlierSend | None, is_recorded: bool) -> SendReport:
    shift = sending.shift
    moved, early = (None, 0) if shift is None else (shift.by, shift.early)
    large = tuple(sending.too_large)
    return SendReport(sending.contract.topic, sending.rows, seconds, moved, large, early, earlier, is_recorded)


def _check_format(contract: Contract) -> None:
    if not formats.find(contract).plain_json:
        raise CallError(
            f"send writes JSON, and the events of {contract.topic!r} have the format {contract.format!r}",
            where=str(contract.place),
            remedy="Put them on the log with a producer of that format.",
        )


def _check_options(rate: float | None, skip: int, shift_to_now: bool, shift_by: timedelta | None) -> None:
    if rate is not None and not 0 < rate < math.inf:
        raise CallError("--rate must be a number greater than 0", where=f"--rate {rate:g}")
    if skip < 0:
        raise CallError("--skip must not be negative", where=f"--skip {skip}")
    if shift_to_now and shift_by is not None:
        raise CallError("--shift-to-now and --shift-by exclude each other", where="headrace send")
    if shift_to_now and skip:
        raise CallError(
            "--shift-to-now would move the rest of a file by another distance than its beginning",
            where="headrace send",
            remedy="Use --shift-by with the distance that the call before reported.",
        )


def _batches(events: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(islice(events, size)):
        yield batch
