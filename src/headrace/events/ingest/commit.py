"""The commit of a batch: its rows, its position, and the properties of the table and the snapshot, at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from headrace.declare.event import Contract
from headrace.events.ingest.position import READER
from headrace.events.ingest.rates import count_arrivals
from headrace.events.ingest.reader import ReadSpan
from headrace.events.verdicts.decode import MAX_EXTRA_NAMES
from headrace.events.verdicts.judge import Verdicts
from headrace.events.verdicts.watermarks import merge_watermarks
from headrace.kernel.properties import LATEST_ARRIVAL, UNDECLARED_FIELDS, WATERMARKS
from headrace.lake import LakeTable, Snapshot

__all__ = ["commit"]


def commit(table: LakeTable, contract: Contract, verdicts: Verdicts, span: ReadSpan) -> Snapshot:
    """Appends the rows of a batch to the topic's table and moves its position, in one commit.

    Facts and properties are computed from the table's properties at the time of the commit: other processes may
    have changed them since the batch was read.

    Raises:
        Conflict: another process has read these log partitions further.
        Unwritable: the rows cannot be stored.
        Unavailable: the catalog or the files cannot be reached.
    """
    arrivals = count_arrivals(verdicts.rows, contract)

    def latest_arrival(stored: Mapping[str, str]) -> str:
        return str(max(int(stored.get(LATEST_ARRIVAL, 0)), verdicts.latest))

    def facts(stored: Mapping[str, str]) -> Mapping[str, str]:
        fields = {UNDECLARED_FIELDS: json.dumps(verdicts.extra)} if verdicts.extra else {}
        return {LATEST_ARRIVAL: latest_arrival(stored), **fields, **arrivals}

    def properties(stored: Mapping[str, str]) -> Mapping[str, str]:
        moved = {
            LATEST_ARRIVAL: latest_arrival(stored),
            WATERMARKS: merge_watermarks(stored.get(WATERMARKS), verdicts.watermarks),
        }
        if not verdicts.extra:
            return moved
        fields = Counter(json.loads(stored.get(UNDECLARED_FIELDS, "{}"))) + verdicts.extra
        return {**moved, UNDECLARED_FIELDS: json.dumps(dict(fields.most_common(MAX_EXTRA_NAMES)))}

    position = (READER, span.before, span.after)
    return table.append(verdicts.rows, position=position, facts=facts, properties=properties)
