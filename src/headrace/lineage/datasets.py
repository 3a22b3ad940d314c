"""Converts datasets to those of OpenLineage events, with their facts as facets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from headrace.kernel.position import LogPosition, SnapshotPosition, encode_position
from headrace.kernel.run import Dataset
from headrace.lineage.facets import facet
from headrace.lineage.names import Names, split_version

__all__ = ["openlineage_dataset"]

_TYPES = {
    "endpoint": "ENDPOINT",
    "file": "FILE",
    "model": "MODEL",
    "online": "ONLINE_STORE",
    "table": "TABLE",
    "topic": "TOPIC",
}
_MODEL = ("metrics", "params", "versions")  # facts that go into the model facet
_PLACED = frozenset(
    {"schema", "columns", "rows", "bytes", "version", "assertions", *_MODEL}
)  # facts that have a facet


def openlineage_dataset(
    dataset: Dataset, names: Names, side: Literal["input", "output"], inputs: Iterable[Dataset] = ()
) -> dict[str, Any]:
    """The dataset as an event's input or output.

    Args:
        dataset: the dataset, with its facts.
        names: the namespaces.
        side: whether it is an input or an output.
        inputs: the inputs of an output: the columns in its fact `columns` are searched for there.
    """
    namespace, name = names.dataset(dataset)
    result: dict[str, Any] = {
        "namespace": namespace,
        "name": name,
        "facets": _facets(dataset, names, list(inputs)),
    }
    counts = {"rowCount": dataset.facts.get("rows"), "size": dataset.facts.get("bytes")}
    counts = {field: count for field, count in counts.items() if isinstance(count, int)}
    side_facets = {f"{side}Statistics": facet(f"{side}Statistics", **counts)} if counts else {}
    if side == "input" and isinstance(dataset.facts.get("assertions"), list):
        side_facets["dataQualityAssertions"] = facet(
            "dataQualityAssertions", assertions=dataset.facts["assertions"]
        )
    if side_facets:
        result[f"{side}Facets"] = side_facets
    return result


def _facets(dataset: Dataset, names: Names, inputs: list[Dataset]) -> dict[str, Any]:
    facts = dataset.facts
    facets = {"datasetType": facet("datasetType", datasetType=_TYPES[dataset.kind])}
    if isinstance(facts.get("schema"), Mapping):
        fields = [{"name": str(column), "type": str(dtype)} for column, dtype in facts["schema"].items()]
        facets["schema"] = facet("schema", fields=fields)
    version = _version(dataset)
    if version is not None:
        facets["version"] = facet("version", datasetVersion=version)
    if isinstance(facts.get("columns"), Mapping):
        columns = _column_lineage(facts["columns"], inputs, names)
        facets["columnLineage"] = facet("columnLineage", fields=columns)
    if dataset.kind in ("model", "endpoint"):
        model_facts = {field: facts[field] for field in _MODEL if field in facts}
        facets["headrace_model"] = facet("headrace_model", version=version or "", **model_facts)
    if dataset.position is not None:
        # Through JSON, in which a log partition is a text key, as OpenLineage's readers expect.
        position = msgspec.json.decode(encode_position(dataset.position))
        facets["headrace_position"] = facet("headrace_position", position=position)
    rest = {field: value for field, value in facts.items() if field not in _PLACED}
    if rest:
        facets["headrace_facts"] = facet("headrace_facts", facts=rest)
    return facets


def _version(dataset: Dataset) -> str | None:
    """The version as text: a snapshot's id, a log's offsets, a model's number, or a file's digest."""
    match dataset.position:
        case SnapshotPosition(snapshot_id=snapshot):
            return str(snapshot)
        case LogPosition(log_id=log, offsets=offsets):
            return f"{log}:" + ",".join(f"{p}={o}" for p, o in sorted(offsets.items()))
    version = split_version(dataset)[1] or dataset.facts.get("version") or dataset.facts.get("digest")
    return version if isinstance(version, str) else None


def _column_lineage(columns: Mapping[str, Any], inputs: list[Dataset], names: Names) -> dict[str, Any]:
    """Output column → its input fields.

    An input column is written `column`, or `table.column` if several inputs have such a column. A column
    without a table belongs to each input that may have it.
    """
    lineage = {}
    for column, sources in columns.items():
        fields = []
        for source in [sources] if isinstance(sources, str) else sources:
            table, dot, field = str(source).rpartition(".")
            tables = [dataset for dataset in inputs if dot and dataset.name == table]
            for dataset in tables or _with_column(inputs, str(source)):
                namespace, name = names.dataset(dataset)
                fields.append({"namespace": namespace, "name": name, "field": field if tables else str(source)})
        lineage[str(column)] = {"inputFields": fields}
    return lineage


def _with_column(inputs: list[Dataset], column: str) -> list[Dataset]:
    return [dataset for dataset in inputs if column in dataset.facts.get("schema", {column: None})]
