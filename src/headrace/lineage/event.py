"""Converts runs to OpenLineage events: plain JSON-ready values that conform to the published schemas.

The schemas are openlineage.io/spec/2-0-2 and its facets; the tests validate against copies of them.
openlineage-python is not used: its import takes half a second, and every command records its run.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from headrace import __version__
from headrace.kernel.run import Dataset, Outcome, RunEvent
from headrace.kernel.secrets import clean, clean_text, process_secrets
from headrace.lineage.datasets import openlineage_dataset
from headrace.lineage.facets import PRODUCER, SPEC, facet
from headrace.lineage.names import Names, job_name
from headrace.lineage.source_location import source_location
from headrace.projects.checkout import Checkout

__all__ = ["RunRecord", "copy_event", "openlineage_event"]

_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")  # JSON, or the PostgreSQL of Marquez, cannot hold them
_MAX_ERROR = 50_000  # characters
_COLUMNS = ("schema", "columns")  # facts whose keys are columns: a column called `token` is not a secret


class RunRecord(Struct, frozen=True):
    """A copy of a run at one of its events, without secrets. A copy, because the run still changes.

    Attributes:
        outcome: the event's outcome.
        time: the event's time.
        started: when the run started.
        job: the run's job.
        run: the run's id.
        parents: (run id, job) of the run's parents, the nearest first.
        inputs: what the run has read so far.
        outputs: what the run has written so far.
        facts: the run's facts so far.
        error: the message and traceback of a FAIL.
        reads: what the job reads, as far as that is known before the run has read it.
        writes: what the job writes, in the same way, as it was before the run.
    """

    outcome: Outcome
    time: datetime
    started: datetime
    job: str
    run: str
    parents: tuple[tuple[str, str], ...]
    inputs: tuple[Dataset, ...]
    outputs: tuple[Dataset, ...]
    facts: Mapping[str, Any]
    error: tuple[str, str] | None
    reads: tuple[Dataset, ...] = ()
    writes: tuple[Dataset, ...] = ()


def copy_event(event: RunEvent) -> RunRecord:
    """Copies the event's run as it is now, without secrets."""
    run, secrets = event.run, process_secrets()
    parents = []
    parent = run.parent
    while parent is not None:
        parents.append((parent.id, parent.job))
        parent = parent.parent
    return RunRecord(
        outcome=event.outcome,
        time=event.time,
        started=run.started,
        job=run.job,
        run=run.id,
        parents=tuple(parents),
        inputs=_clean(run.inputs, secrets),
        outputs=_clean(run.outputs, secrets),
        facts=_storable(clean(run.facts, secrets)),
        error=None if event.error is None else _describe(event.error, secrets),
        reads=_clean(run.reads, secrets),
        writes=_clean(run.writes, secrets),
    )


def _clean(datasets: Iterable[Dataset], secrets: Sequence[str]) -> tuple[Dataset, ...]:
    return tuple(_clean_dataset(dataset, secrets) for dataset in datasets)


def _clean_dataset(dataset: Dataset, secrets: Sequence[str]) -> Dataset:
    facts = clean(dataset.facts, secrets)
    facts |= {name: dict(dataset.facts[name]) for name in _COLUMNS if name in dataset.facts}
    name = _storable(clean_text(dataset.name, secrets))
    return Dataset(dataset.kind, name, dataset.position, _storable(facts))


def _describe(error: BaseException, secrets: Sequence[str]) -> tuple[str, str]:
    message, trace = str(error) or type(error).__name__, "".join(traceback.format_exception(error))
    message, trace = (_storable(clean_text(text, secrets)[:_MAX_ERROR]) for text in (message, trace))
    return message, trace


def _storable(value: Any) -> Any:
    """The value with each character replaced that a receiver cannot store, such as NUL."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(item) for item in value]
    return value


def openlineage_event(
    record: RunRecord, names: Names, process: str, checkout: Checkout | None = None
) -> dict[str, Any] | None:
    """The OpenLineage RunEvent; None for a run that the graph leaves out (lineage.names).

    Args:
        record: the run at the event.
        names: the namespaces.
        process: the mark of the process that runs it (kernel.process).
        checkout: the git checkout of the project; None: the project is not in one.
    """
    name = job_name(record.job)
    if name is None:
        return None
    job = {"namespace": names.project, "name": name, "facets": _job_facets(record.job, checkout)}
    inputs = _add_missing(record.inputs, record.reads, names)
    outputs = _add_missing(record.outputs, record.writes, names)
    return {
        "eventTime": record.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "eventType": record.outcome,
        "producer": PRODUCER,
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": record.run, "facets": _run_facets(record, name, names, process)},
        "job": job,
        "inputs": [openlineage_dataset(dataset, names, "input") for dataset in inputs],
        "outputs": [openlineage_dataset(dataset, names, "output", inputs) for dataset in outputs],
    }


def _add_missing(datasets: Sequence[Dataset], declared: Iterable[Dataset], names: Names) -> list[Dataset]:
    """The datasets, and those declared ones that are not among them.

    Tools take an event without outputs for a job that writes nothing, and cut their graph there.
    """
    present = {names.dataset(dataset) for dataset in datasets}
    return [*datasets, *(dataset for dataset in declared if names.dataset(dataset) not in present)]


def _job_facets(job: str, checkout: Checkout | None) -> dict[str, Any]:
    kind = job.rpartition(" ")[0] or job
    processing = "STREAMING" if kind == "ingest" else "BATCH"
    facets = {
        "jobType": facet(
            "jobType",
            processingType=processing,
            integration="HEADRACE",
            jobType=kind.upper().replace(" ", "_"),
        )
    }
    if checkout is not None:
        facets["sourceCodeLocation"] = facet("sourceCodeLocation", **source_location(checkout))
    return facets


def _run_facets(record: RunRecord, name: str, names: Names, process: str) -> dict[str, Any]:
    run_fields: dict[str, Any] = {"process": process, "facts": dict(record.facts)}
    if record.parents:
        run_fields["parent"] = record.parents[0][0]
    facets = {
        "processing_engine": facet("processing_engine", name="headrace", version=__version__),
        "headrace_run": facet("headrace_run", **run_fields),
    }
    parents = [(run, job_name(job)) for run, job in record.parents]
    # Some tools prefix a job's name with its parent's unless it already begins with it. A job must have one
    # name, whichever its parent, so only parents whose name is a prefix are listed.
    links = [_link(run, job, names) for run, job in parents if job is not None and name.startswith(f"{job}.")]
    if links:
        facets["parent"] = facet("parent", **links[0], root=links[-1])
    if record.error is not None:
        message, trace = record.error
        facets["errorMessage"] = facet(
            "errorMessage", message=message, programmingLanguage="python", stackTrace=trace
        )
    return facets


def _link(run: str, job: str, names: Names) -> dict[str, Any]:
    return {"run": {"runId": run}, "job": {"namespace": names.project, "name": job}}
