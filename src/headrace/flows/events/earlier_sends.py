"""Finds out whether events of a file are on the topic already, from the recorded runs of `send`.

A run records the file's digest and size before it appends anything, and at its end how far it came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal

from msgspec import Struct

from headrace.declare.event import Contract
from headrace.kernel.run import Dataset, Run
from headrace.kernel.time import format_duration
from headrace.lineage import RunRow, Store

__all__ = ["EarlierSend", "describe_file", "describe_repeats", "find_earlier"]

_CHUNK = 1 << 20


class EarlierSend(Struct, frozen=True):
    """An earlier send to the topic, of a file whose events are in this file too.

    Attributes:
        at: when it began, in UTC.
        file: the file that it sent: its path from the folder of the project, or its whole path.
        state: `complete`: it sent all of this file; `partial`: it was cut off, or the file has grown since;
            `running`: it has not ended yet.
        events: how many events at the beginning of this file the topic has for certain.
        repeats: which events count twice.
    """

    at: datetime
    file: str
    state: Literal["complete", "partial", "running"]
    events: int
    repeats: str


def describe_file(root: Path, file: Path) -> Dataset:
    """The file under its path from the folder of the project, or its whole path if it is outside."""
    path, root = file.resolve(), root.resolve()
    name = path.relative_to(root) if path.is_relative_to(root) else path
    with path.open("rb") as content:
        digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        return Dataset("file", name.as_posix(), facts={"digest": digest, "bytes": content.tell()})


def find_earlier(
    store: Store, this_run: Run, file: Path, dataset: Dataset, contract: Contract
) -> EarlierSend | None:
    """The last earlier send of events that this run sends too; None: there is none.

    Args:
        store: the lineage store.
        this_run: the run of this send; its facts have `skip`, `shift` and `log` (RunRow of the others too).
        file: the file.
        dataset: what `describe_file` says of it.
        contract: the contract of the topic.
    """
    skip = this_run.facts["skip"]
    for run in store.runs(this_run.job, digest=dataset.facts["digest"]):
        if _is_same_log(run, this_run) and _may_repeat(run, skip):
            return _describe(run, _end(run), this_run, contract)
    runs = store.runs(this_run.job, (dataset.kind, dataset.name))
    grown = _find_beginning(
        file, dataset, [run for run in runs if _is_same_log(run, this_run) and _may_repeat(run, skip)]
    )
    if grown is None:
        return None
    run, is_torn = grown
    events = max(0, _end(run) - is_torn)
    if run.outcome == "COMPLETE" and events <= skip:
        return None
    return _describe(run, events, this_run, contract, has_grown=True)


def describe_repeats(contract: Contract) -> str:
    """Which events count twice if they are sent again: those whose identity is forgotten."""
    if contract.dedup_within is None:
        return "events count twice, because the contract has no identity= and dedup_within="
    within = format_duration(contract.dedup_within)
    return f"events more than {within} older than the newest one count twice, since dedup_within is {within}"


def _is_same_log(run: RunRow, this_run: Run) -> bool:
    log = this_run.facts["log"]
    return run.id != this_run.id and run.facts.get("log", log) == log


def _end(run: RunRow) -> int:
    """The number of the first event of the file that the run did not send, as far as it is on record."""
    return int(run.facts.get("end", sum(dataset.facts.get("rows", 0) for dataset in run.outputs)))


def _may_repeat(run: RunRow, skip: int) -> bool:
    """Whether the topic may have events of the run's file from number `skip` on (from 0).

    Nothing says how far a run came that was killed or that runs now. If it was killed, whoever skips events has
    found out.
    """
    if run.outcome in ("LOST", "RUNNING"):
        return skip == 0 or run.outcome == "RUNNING"
    first, end, pending = int(run.facts.get("skip", 0)), _end(run), int(run.facts.get("pending", 0))
    if skip:  # whoever skips what the topic has for certain was told of the rest
        return end > max(skip, first)
    return end + pending > first


def _describe(
    run: RunRow, events: int, this_run: Run, contract: Contract, *, has_grown: bool = False
) -> EarlierSend:
    repeats = describe_repeats(contract)
    if run.facts.get("shift") != this_run.facts["shift"]:
        repeats = "its times were moved by another distance then, so that all events may count twice"
    state: Literal["complete", "partial", "running"] = "partial"
    if run.outcome == "RUNNING":
        state = "running"
    elif run.outcome == "COMPLETE" and not has_grown:
        state = "complete"
    if run.facts.get("skip"):
        events = 0  # its beginning may be missing
    name = next(dataset.name for dataset in run.inputs)
    return EarlierSend(run.started, name, state, events, repeats)


def _find_beginning(file: Path, dataset: Dataset, runs: Iterable[RunRow]) -> tuple[RunRow, bool] | None:
    """The run that sent the longest beginning of the file, and whether its last line was not whole then."""
    by_size: dict[int, list[RunRow]] = {}
    for run in runs:
        for earlier in run.inputs:
            size = earlier.facts.get("bytes", 0)
            if 0 < size < dataset.facts["bytes"]:
                by_size.setdefault(size, []).append(run)
    longest = None
    content_digest = hashlib.sha256()
    with file.open("rb") as content:
        for size in sorted(by_size):
            last = _digest_up_to(content, size, content_digest)
            digest = f"sha256:{content_digest.hexdigest()}"
            for run in by_size[size]:
                if any(earlier.facts.get("digest") == digest for earlier in run.inputs):
                    next_byte = content.read(1)
                    content.seek(size)
                    longest = run, last not in b"\r\n" and next_byte not in b"\r\n"
                    break
    return longest


def _digest_up_to(content: BinaryIO, end: int, digest: hashlib._Hash) -> bytes:
    """Adds the content up to this byte to the digest; returns the last byte."""
    chunk = b""
    while (left := end - content.tell()) > 0 and (chunk := content.read(min(left, _CHUNK))):
        digest.update(chunk)
    return chunk[-1:]
