"""Every stored name under `headrace.`: a table's properties and snapshot summaries, the headers of records on
the log, the tags of a model version.

If a name changes, values that were stored under the old name can no longer be read.
"""

from __future__ import annotations

__all__ = [
    "ARRIVALS",
    "AUDIT",
    "BUNDLE_DIGEST",
    "CHANGELOG",
    "CODE",
    "COMMIT",
    "COMMIT_ID",
    "CONTRACT",
    "FAILED_ROWS",
    "FIRST_POSITION",
    "FORWARDED_FROM",
    "GATE",
    "HISTORY",
    "INPUT",
    "INPUTS_DIGEST",
    "KEYLESS_ROWS",
    "LATEST_ARRIVAL",
    "MAINTENANCE",
    "ORPHANS_REMOVED",
    "PENDING",
    "PLAN",
    "POSITION",
    "PREFIX",
    "PROJECT",
    "QUERY_ROWS",
    "RENAMES",
    "REQUEST",
    "REVISION",
    "REWRITTEN",
    "ROWS_DIGEST",
    "ROWS_OF",
    "RUN",
    "TRAINING_SET",
    "UNDECLARED_FIELDS",
    "UNLABELLED_ROWS",
    "VISIBLE",
    "WATERMARKS",
]

PREFIX = "headrace."

# Of any table (properties), and of its snapshots (summaries)

POSITION = "headrace.position."
"""Prefix of a property: how far the reader whose name follows has read (kernel.position)."""

COMMIT_ID = "headrace.commit_id"
"""Summary: the id of the commit, by which a writer recognizes its own commit if the answer was lost."""

ROWS_OF = "headrace.rows_of"
"""Summary of a maintenance snapshot: the id of the snapshot that has the same rows."""

MAINTENANCE = "headrace.maintenance"
"""Summary of a maintenance snapshot: the kind of maintenance."""

ORPHANS_REMOVED = "headrace.orphans_removed"
"""Property: when the last removal of orphan files began, in microseconds since 1970."""

VISIBLE = "headrace.visible"
"""Property and summary of the table `headrace_visible`: what readers see (JSON, lake.visible)."""

# Of a topic's table

LATEST_ARRIVAL = "headrace.latest_arrival"
"""Property and summary: the latest arrival of any event so far, in microseconds since 1970. For a table that a
build made: the latest arrival in the topics that it was made from."""

ARRIVALS = "headrace.arrivals"
"""Summary: the number of the commit's events by time of arrival, and of the refused events by reason (JSON,
events.ingest.rates)."""

UNDECLARED_FIELDS = "headrace.undeclared_fields"
"""Property: how many events had each field that the contract does not name (JSON). Summary: the same for the
commit's events."""

CONTRACT = "headrace.contract"
"""Property: the contract that the table last had (JSON, events.contracts.description)."""

WATERMARKS = "headrace.watermarks"
"""Property: the watermarks of the good rows, by log partition (JSON, events.verdicts.watermarks)."""

# Of a table that a build made

CODE = "headrace.code"
"""Property, summary and tag: the fingerprint of the code that made it."""

INPUT = "headrace.input."
"""Prefix of a property, summary or tag: the position or snapshot at which the input whose name follows was
read."""

FAILED_ROWS = "headrace.failed_rows"
"""Property and summary of a rowwise table: the rows of its input that its function failed on, by partition of
the input: how many, and some of them with the error (JSON, tables.failures). Summary of a training set: the
rows of its labels that an on-demand function failed on."""

PENDING = "headrace.pending"
"""Property and summary of a table with partitions: those that are stale, because a build of a range left them
out (JSON, the numbers of the partitions)."""

RENAMES = "headrace.renames"
"""Property and summary of a table: column of the function's rows → its name in the table (JSON)."""

ROWS_DIGEST = "headrace.rows_digest"
"""Summary of a table that is not made from topics, and of a training set: the digest of all its rows, in any
order (tables.twin)."""

REVISION = "headrace.revision."
"""Prefix of a summary or tag: the git revision at which the source whose name follows was read, `v1@COMMIT`;
several, if tables were made from several, are separated by commas. A table has those of its inputs too."""

AUDIT = "headrace.audit"
"""Property and summary: the results of the audit (JSON, tables.audits.report); of a table, that of its rows; of
the table of its failing rows, that which they failed."""

CHANGELOG = "headrace.changelog"
"""Property of a table of current rows: the part of the changelog that it holds (JSON, tables.current)."""

QUERY_ROWS = "headrace.query_rows"
"""Property of the table of a query: a digest of the rows that were read last (tables.queries)."""

INPUTS_DIGEST = "headrace.inputs_digest"
"""Summary of a training set: the digest of all that its rows depend on."""

UNLABELLED_ROWS = "headrace.unlabelled_rows"
"""Summary of a training set: how many label rows had no target and were left out."""

KEYLESS_ROWS = "headrace.keyless_rows"
"""Summary of a training set: join key → in how many of its rows the key is null, as JSON."""

# Headers of records on the log

FIRST_POSITION = "headrace.first"
"""The first log position of a replayed event: `partition:offset`."""

HISTORY = "headrace.history"
"""Header: marks an event that was loaded as history. It counts as known from its own time, not from its
arrival (column `_known_at`)."""

REQUEST = "headrace.request"
"""The digest of the Idempotency-Key of the request that sent the event."""

FORWARDED_FROM = "headrace.at"
"""The log position of a forwarded event on its own topic: `partition:offset`."""

REWRITTEN = "headrace.again"
"""Marks a forwarded event whose bytes the log had deleted: they were written again from the table."""

# Tags of a model version and of MLflow's runs

RUN = "headrace.run"
COMMIT = "headrace.commit"
PLAN = "headrace.plan"
TRAINING_SET = "headrace.training_set"
GATE = "headrace.gate"
BUNDLE_DIGEST = "headrace.bundle_digest"

# Tags of a registered model

PROJECT = "headrace.project"
"""The name of the project that it belongs to."""
