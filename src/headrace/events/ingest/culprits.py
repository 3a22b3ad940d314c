"""Culprits: the events of a batch that cannot be judged or stored, found by bisection.

No such event is known: a table can hold whatever its contract admits. This is the safety net, so that no
single event stops its topic. A culprit goes to quarantine as `unwritable`, with its bytes.
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

__all__ = ["find_culprits", "judge_batch"]


def judge_batch(judge: Judge, batch: Batch, culprits: Mapping[int, Refusal]) -> Verdicts:
    """The batch's verdicts; culprits (place in the batch → why) are refused without being judged.

    Raises:
        Unwritable: an event breaks the judge, which must not be used again.
        Unavailable: as Judge.judge.
    """
    try:
        return judge.judge(batch, culprits)
    except (HeadraceError, OSError, MemoryError):
        raise
    except Exception as error:  # any other: not an outage, so an event caused it
        raise Unwritable(
            f"an event cannot be judged: {type(error).__name__}: {error}", where=f"topic {judge.contract.topic}"
        ) from error


def find_culprits(batch: Batch, contract: Contract, format: Format, table: LakeTable) -> dict[int, Refusal]:
    """Place in the batch → why that event cannot be judged or stored, while a refused row of it can.

    Events are judged without regard to duplicates, and their rows written to a data file in memory: a disk or a
    catalog that is away accuses no event.

    Raises:
        Unwritable: not even a refused row of an event can be stored: no event is to blame.
        Unavailable: as Judge.judge.
    """
    judge = Judge(attrs.evolve(contract, dedup_within=None), lambda _: (), format)
    stored = table.iceberg()
    culprits: dict[int, Refusal] = {}
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
            culprits[begin] = Refusal("unwritable", None, text)
            check_rows(judge_batch(judge, batch[begin:end], {0: culprits[begin]}).rows, stored)
    return culprits
