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
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from headrace.declare.event import Contract
from headrace.events import formats
from headrace.events.contracts.shape import shape_of
from headrace.events.files import check_file, read_events
from headrace.events.shift import TimeShift
from headrace.events.verdicts.keys import key_reader
from headrace.kernel.counts import plural
from headrace.kernel.digest import digest_file
from headrace.kernel.errors import CallError, HeadraceError
from headrace.kernel.faults import reach
from headrace.kernel.properties import HISTORY
from headrace.kernel.run import Dataset, record_with, run
from headrace.kernel.time import format_duration
from headrace.lineage import RunRow
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
        before: when this file was last sent to this topic, with the same content; None: never, or with `skip`.
        was_cut_off: whether that was ended before the end of the file: the topic has a part of its events.
        repeats: which of its events count twice then; "" if it was never sent before.
    """

    topic: str
    events: int
    seconds: float
    shifted: timedelta | None
    too_large: tuple[int, ...]
    early: int
    before: datetime | None = None
    was_cut_off: bool = False
    repeats: str = ""


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
    progress: Callable[[int], None] = lambda _: None,
) -> SendReport:
    """Sends every row of the file. Each batch is durable on the log before the next one is read.

    Args:
        workspace: the project to work on.
        topic: a topic with a contract, whose key chooses the log partition.
        file: .csv, .ndjson, .jsonl or .parquet.
        rate: the most events per second.
        shift_to_now: move the times of all events by the same whole number of seconds, so that the last one is
            now. Each time keeps its format. A time that cannot be parsed is not changed.
        shift_by: move the times by this distance instead.
        skip: how many events at the beginning of the file to leave out, because they were sent before.
        live: whether the events happen now, as far as features are concerned: each is known from its arrival
            on the log. Otherwise they are history: each is known from its own time (properties.HISTORY).
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
        dataset = _file_dataset(workspace.settings.root, file)
        earlier = None if skip else _find_sending(workspace, topic, dataset)
        this_run.add_input(dataset)
        if shift_to_now:
            sending.shift = TimeShift.to_now(contract, _batches(read_events(file), _BATCH), str(file))
        this_run.report_running(timedelta(0))
        recorder.flush()  # a call after a kill from here on finds the file among the inputs
        try:
            sending.append_to(workspace.log, progress)
        finally:
            if sending.sent:
                this_run.add_output(Dataset("topic", topic, facts={"rows": sending.rows, "schema": schema}))
    return _report(sending, time.perf_counter() - started, earlier)


class _Sending(Struct):
    """The state of sending one file: `sent` counts events, `too_large` has numbers of events in the file."""

    contract: Contract
    file: Path
    skip: int
    rate: float | None
    shift: TimeShift | None
    live: bool
    sent: int = 0
    too_large: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many events the topic has of it."""
        return self.sent - len(self.too_large)

    def append_to(self, log: Log, progress: Callable[[int], None]) -> None:
        """Appends the events of the file, batch by batch."""
        started = time.perf_counter()
        keys_of = key_reader(self.contract, formats.open(self.contract))
        log.create(self.contract.topic, self.contract.partitions, self.contract.retention)
        size = _BATCH if self.rate is None else max(1, min(_BATCH, int(self.rate / 10)))
        for events in _batches(islice(read_events(self.file), self.skip, None), size):
            values = events if self.shift is None else self.shift.move(events)
            headers = None if self.live else [{HISTORY: b"1"}] * len(values)
            positions = append_fitting(log, self.contract.topic, values, keys_of(values), headers)
            first = self.skip + self.sent + 1
            self.too_large += [at for at, position in enumerate(positions, first) if position is None]
            reach("send.batch")
            self.sent += len(values)
            progress(self.sent)
            if self.rate is not None:
                time.sleep(max(0.0, started + self.sent / self.rate - time.perf_counter()))

    @contextlib.contextmanager
    def report_errors(self) -> Iterator[None]:
        """Adds to the remedy of an error how many events were sent before it, and how to continue."""
        try:
            yield
        except HeadraceError as error:
            count = self.skip + self.sent
            if count:
                options = f"--skip {count}"
                if self.shift is not None:  # with --shift-to-now the rest would be moved by another distance
                    options += f" --shift-by {self.shift.by // _SECOND}"
                state = (
                    f"The first {plural(count, 'event')} of {self.file.name} {'is' if count == 1 else 'are'}"
                    f" on the topic: continue with {options}."
                )
            else:
                state = f"Nothing of {self.file.absolute().name} has been sent."
            error.remedy = state if error.remedy is None else f"{error.remedy}\n{state}"
            raise


def _report(sending: _Sending, seconds: float, earlier: RunRow | None) -> SendReport:
    contract, shift = sending.contract, sending.shift
    moved, early = (None, 0) if shift is None else (shift.by, shift.early)
    report = SendReport(contract.topic, sending.rows, seconds, moved, tuple(sending.too_large), early)
    if earlier is None:
        return report
    was_cut_off, repeats = earlier.outcome != "COMPLETE", _describe_repeats(contract)
    return replace(report, before=earlier.started, was_cut_off=was_cut_off, repeats=repeats)


def _file_dataset(root: Path, file: Path) -> Dataset:
    """The file under its path from the folder of the project, or its whole path if it is outside."""
    path, root = file.resolve(), root.resolve()
    name = path.relative_to(root) if path.is_relative_to(root) else path
    return Dataset("file", name.as_posix(), facts={"digest": f"sha256:{digest_file(file)}"})


def _find_sending(workspace: Workspace, topic: str, file: Dataset) -> RunRow | None:
    """The last run that sent this content of the file to the topic, or may have sent a part of it: nothing says
    how much a run that was killed, or that runs now, has sent."""
    for earlier in workspace.lineage.runs(f"send {topic}", (file.kind, file.name)):
        is_same = any(dataset.facts == file.facts for dataset in earlier.inputs)
        has_sent = any(dataset.facts.get("rows") for dataset in earlier.outputs)
        if is_same and (has_sent or earlier.outcome in ("LOST", "RUNNING")):
            return earlier
    return None


def _describe_repeats(contract: Contract) -> str:
    """Which events count twice if a file is sent again: those whose identity is forgotten."""
    if contract.dedup_within is None:
        return "its events count twice, because the contract has no identity"
    within = format_duration(contract.dedup_within)
    return f"events more than {within} older than the newest one count twice, since dedup_within is {within}"


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
