"""A run as an OpenLineage event: plain JSON-ready values that conform to the published schemas.

The schemas are openlineage.io/spec/2-0-2 and its facets; the tests validate against copies of them.
openlineage-python is not used for this: importing it costs half a second, and every verb records.
What OpenLineage has no place for goes into facets of our own, described in facets.json.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from headrace import __version__
from headrace.kernel.position import LogPosition, Position, SnapshotPosition, encode_position
from headrace.kernel.run import Dataset, Outcome, RunEvent
from headrace.kernel.secrets import clean, clean_text, environment_secrets
from headrace.lineage.names import Names

__all__ = ["FACETS", "PRODUCER", "Told", "openlineage_event", "told"]

PRODUCER = f"headrace://headrace/{__version__}"
FACETS = "headrace://headrace/lineage/facets-1.json"
_SPEC = "https://openlineage.io/spec"
_SCHEMAS = {
    "parent": "1-2-0/ParentRunFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
    "schema": "1-2-0/SchemaDatasetFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
    "columnLineage": "1-2-0/ColumnLineageDatasetFacet",
    "inputStatistics": "1-0-0/InputStatisticsInputDatasetFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
}
_OWN = {
    "headrace_run": "RunFacet",
    "headrace_position": "PositionDatasetFacet",
    "headrace_facts": "FactsDatasetFacet",
}
_PLACED = frozenset({"schema", "columns", "rows", "bytes"})  # facts that have facets of OpenLineage's


@dataclass(frozen=True)
class Told:
    """What a recorder was told, as it stood at that moment: the run itself goes on changing.

    Attributes:
        outcome, time, job, run: of the event. parents: (run id, job) of the run's parents, the
            nearest first. inputs, outputs, facts: of the run so far. error: message and traceback of
            a FAIL, cleaned of secrets.
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


def told(event: RunEvent) -> Told:
    """A copy of what the event says now, secrets left out."""
    run, parents, known = event.run, [], environment_secrets()
    above = run.parent
    while above is not None:
        parents.append((above.id, above.job))
        above = above.parent
    return Told(
        event.outcome, event.time, run.started, run.job, run.id, tuple(parents),
        tuple(_clean(d, known) for d in run.inputs), tuple(_clean(d, known) for d in run.outputs),
        clean(run.facts, known), None if event.error is None else _error(event.error, known),
    )  # fmt: skip


def _clean(dataset: Dataset, known: Sequence[str]) -> Dataset:
    facts = clean(dataset.facts, known)
    for name in ("schema", "columns"):  # its keys are columns: one called `token` is no secret
        if isinstance(dataset.facts.get(name), Mapping):
            facts[name] = dict(dataset.facts[name])
    return Dataset(dataset.kind, clean_text(dataset.name, known), dataset.position, facts)


def _error(error: BaseException, known: Sequence[str]) -> tuple[str, str]:
    lines = traceback.format_exception(error)
    return clean_text(str(error) or type(error).__name__, known), clean_text("".join(lines), known)


def openlineage_event(one: Told, names: Names, process: str) -> dict[str, Any]:
    """The OpenLineage RunEvent.

    Args:
        one: what was told.
        names: the namespaces.
        process: the mark of the process that runs it (kernel.process).
    """
    facets = {
        "processing_engine": _facet("processing_engine", name="headrace", version=__version__),
        "headrace_run": _facet("headrace_run", process=process, facts=dict(one.facts)),
    }
    if one.parents:
        facets["parent"] = _facet("parent", **_parent(one.parents, names))
    if one.error is not None:
        message, trace = one.error
        facets["errorMessage"] = _facet(
            "errorMessage", message=message, programmingLanguage="python", stackTrace=trace
        )
    return {
        "eventTime": one.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "eventType": one.outcome,
        "producer": PRODUCER,
        "schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": one.run, "facets": facets},
        "job": {"namespace": names.project, "name": one.job, "facets": {}},
        "inputs": [_dataset(d, names, "input") for d in one.inputs],
        "outputs": [_dataset(d, names, "output", one.inputs) for d in one.outputs],
    }


def version_of(dataset: Dataset) -> str | None:
    """The version of a dataset as one text: a snapshot's id, a log's offsets, a file's digest."""
    match dataset.position:
        case SnapshotPosition(snapshot_id=snapshot):
            return str(snapshot)
        case LogPosition(log_id=log, offsets=offsets):
            return f"{log}:" + ",".join(f"{p}={o}" for p, o in sorted(offsets.items()))
    digest = dataset.facts.get("digest")
    return digest if isinstance(digest, str) else None


def _parent(parents: tuple[tuple[str, str], ...], names: Names) -> dict[str, Any]:
    def named(run: str, job: str) -> dict[str, Any]:
        return {"run": {"runId": run}, "job": {"namespace": names.project, "name": job}}

    return {**named(*parents[0]), "root": named(*parents[-1])}


def _dataset(dataset: Dataset, names: Names, way: str, inputs: Iterable[Dataset] = ()) -> dict[str, Any]:
    namespace, name = names.dataset(dataset)
    facts = dataset.facts
    facets: dict[str, Any] = {}
    if isinstance(facts.get("schema"), Mapping):
        fields = [{"name": str(c), "type": str(t)} for c, t in facts["schema"].items()]
        facets["schema"] = _facet("schema", fields=fields)
    version = version_of(dataset)
    if version is not None:
        facets["version"] = _facet("version", datasetVersion=version)
    if isinstance(facts.get("columns"), Mapping):
        facets["columnLineage"] = _facet(
            "columnLineage", fields=_columns(facts["columns"], list(inputs), names)
        )
    if dataset.position is not None:
        facets["headrace_position"] = _facet("headrace_position", position=_plain(dataset.position))
    rest = {k: v for k, v in facts.items() if k not in _PLACED}
    if rest:
        facets["headrace_facts"] = _facet("headrace_facts", facts=rest)
    out: dict[str, Any] = {"namespace": namespace, "name": name, "facets": facets}
    counts = {"rowCount": facts.get("rows"), "size": facts.get("bytes")}
    counts = {k: v for k, v in counts.items() if isinstance(v, int)}
    if counts:
        out[f"{way}Facets"] = {f"{way}Statistics": _facet(f"{way}Statistics", **counts)}
    return out


def _columns(columns: Mapping[str, Any], inputs: list[Dataset], names: Names) -> dict[str, Any]:
    """Output column → its input fields. An input column is written `column`, or `table.column` where
    several inputs could be meant; one that is written bare belongs to each input that may have it."""
    out = {}
    for column, sources in columns.items():
        fields = []
        for source in [sources] if isinstance(sources, str) else sources:
            table, dot, field = str(source).rpartition(".")
            named = [d for d in inputs if d.name == table] if dot else []
            for d in named or _holding(inputs, str(source)):
                namespace, name = names.dataset(d)
                fields.append({"namespace": namespace, "name": name, "field": field if named else str(source)})
        out[str(column)] = {"inputFields": fields}
    return out


def _holding(inputs: list[Dataset], column: str) -> list[Dataset]:
    return [d for d in inputs if column in d.facts.get("schema", {column: None})]


def _plain(position: Position) -> Any:
    # By way of JSON, where a log partition is a text key as OpenLineage's readers expect.
    return msgspec.json.decode(encode_position(position))


def _facet(facet: str, /, **fields: Any) -> dict[str, Any]:
    if facet in _OWN:
        schema = f"{FACETS}#/$defs/{_OWN[facet]}"
    else:
        path = _SCHEMAS[facet]
        schema = f"{_SPEC}/facets/{path}.json#/$defs/{path.partition('/')[2]}"
    return {"_producer": PRODUCER, "_schemaURL": schema, **fields}
