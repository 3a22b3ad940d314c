"""Unwritable events: finds, by bisection, the events of a batch that cannot be judged or stored.

No such event is known: a table can hold every event that its contract admits. This is the safety net, so that
no single event stops its topic. Such an event goes to quarantine as `unwritable`, with its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from headrace.declare.event import Contract
from headrace.events.formats import Format
from headrace.events.formats.refusals import MAX_REASON_LENGTH, Refusal
from headrace.events.verdicts.judge import Judge, Verdicts
from headrace.kernel.errors import HeadraceError
from headrace.lake import LakeTable, Unwritable
from headrace.lake.files import check_rows
from headrace.log import Batch

__all__ = ["find_unwritable", "judge_batch"]


def judge_batch(judge: Judge, batch: Batch, unwritable: Mapping[int, Refusal]) -> Verdicts:
    """Judges a batch; unwritable events (place in the batch → why) are refused without being judged.

    Raises:
        Unwritable: the judge fails on an event, and must not be used again.
        Unavailable: as Judge.judge.
    """
    try:
        return judge.judge(batch, unwritable)
    except (HeadraceError, OSError, MemoryError):
        raise
    except Exception as error:  # any other error is not an outage, so an event caused it
        raise Unwritable(
            f"an event cannot be judged: {type(error).__name__}: {error}", where=f"topic {judge.contract.topic}"
        ) from error


def find_unwritable(batch: Batch, contract: Contract, format: Format, table: LakeTable) -> dict[int, Refusal]:
    """Finds the events that cannot be judged or stored, but whose refused rows can: place in the batch → why.

    Events are judged without regard to duplicates, and their rows are written to a data file in memory, so the
    failure of a disk or a catalog does not count against an event.

    Raises:
        Unwritable: not even the refused row of an event can be stored, so no single event is the cause.
        Unavailable: as Judge.judge.
    """
    judge = Judge(attrs.evolve(contract, dedup_within=None), lambda _: (), format)
    stored = table.iceberg()
    unwritable: dict[int, Refusal] = {}
    spans = [(0, len(batch))]
    while spans:
        begin, end = spans.pop()
        try:
            check_rows(judge_batch(judge, batch[begin:end], {}).rows, stored)
        except Unwritable as error:
            if end - begin > 1:
                middle = (begin + end) // 2
                spans += [(begin, middle), (middle, end)]
                continue
            # The error may quote the event, whose characters may be what cannot be stored.
            text = error.what[:MAX_REASON_LENGTH].encode("ascii", "backslashreplace").decode()
            unwritable[begin] = Refusal("unwritable", None, text)
            check_rows(judge_batch(judge, batch[begin:end], {0: unwritable[begin]}).rows, stored)
    return unwritable
