"""Every name under `headrace.` that is kept with something else's data: a table's properties and snapshot
summaries, the headers of records on the log, the tags of a model version.

These names are stored. To change one makes what was stored under the old one unreadable.
"""

from __future__ import annotations

__all__ = [
    "ARRIVALS",
    "BUNDLE_DIGEST",
    "CHANGELOG",
    "CODE",
    "COMMIT",
    "COMMIT_ID",
    "CONTRACT",
    "FIRST_POSITION",
    "FORWARDED_FROM",
    "GATE",
    "INPUT",
    "INPUTS_DIGEST",
    "LATEST_ARRIVAL",
    "MAINTENANCE",
    "ORPHANS_REMOVED",
    "PLAN",
    "POSITION",
    "PREFIX",
    "REQUEST",
    "REWRITTEN",
    "ROWS_OF",
    "RUN",
    "TRAINING_SET",
    "UNDECLARED_FIELDS",
    "UNLABELLED_ROWS",
    "WATERMARKS",
]

PREFIX = "headrace."

# Of any table (properties), and of its snapshots (summaries)

POSITION = "headrace.position."
"""Prefix of a property: how far the reader whose name follows has read (kernel.position)."""

COMMIT_ID = "headrace.commit_id"
"""Summary: the id of the commit, by which a writer knows its own commit again after an unclear answer."""

ROWS_OF = "headrace.rows_of"
"""Summary of a snapshot that maintenance made: the id of the snapshot whose rows it has."""

MAINTENANCE = "headrace.maintenance"
"""Summary of a snapshot that maintenance made: which kind of maintenance."""

ORPHANS_REMOVED = "headrace.orphans_removed"
"""Property: when the last removal of orphan files began, in microseconds since 1970."""

# Of a topic's table

LATEST_ARRIVAL = "headrace.latest_arrival"
"""Property and summary: the latest arrival of any event so far, in microseconds since 1970. Of a table that a
build made: the same of the topics that it was made from."""

ARRIVALS = "headrace.arrivals"
"""Summary: how many events the commit brought by their time of arrival, and how many of them were refused, by
reason (JSON, events.ingest.rates)."""

UNDECLARED_FIELDS = "headrace.undeclared_fields"
"""Property: how many events had each field that the contract does not name (JSON). Summary: those of the
commit alone."""

CONTRACT = "headrace.contract"
"""Property: the contract that the table last had (JSON, events.contracts.description)."""

WATERMARKS = "headrace.watermarks"
"""Property: how far the good rows have come in time, by log partition (JSON, events.verdicts.watermarks)."""

# Of a table that a build made

CODE = "headrace.code"
"""Property, summary and tag: the fingerprint of the code that made it."""

INPUT = "headrace.input."
"""Prefix of a property, summary or tag: the position or snapshot at which the input with the name that follows
was read."""

CHANGELOG = "headrace.changelog"
"""Property of a table of current rows: how far of the changelog it holds (JSON, tables.current)."""

INPUTS_DIGEST = "headrace.inputs_digest"
"""Summary of a training set: the digest of all that its rows depend on."""

UNLABELLED_ROWS = "headrace.unlabelled_rows"
"""Summary of a training set: how many rows of the labels had no target and were left out."""

# Headers of records on the log

FIRST_POSITION = "headrace.first"
"""Where an event that was replayed stood first: `partition:offset`."""

REQUEST = "headrace.request"
"""The digest of the Idempotency-Key of the request that brought the event."""

FORWARDED_FROM = "headrace.at"
"""Where a forwarded event stands on its own topic: `partition:offset`."""

REWRITTEN = "headrace.again"
"""Marks a forwarded event whose bytes the log had forgotten: they were written again from the table."""

# Tags of a model version and of MLflow's runs

RUN = "headrace.run"
COMMIT = "headrace.commit"
PLAN = "headrace.plan"
TRAINING_SET = "headrace.training_set"
GATE = "headrace.gate"
BUNDLE_DIGEST = "headrace.bundle_digest"
