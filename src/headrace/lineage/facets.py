"""Facets of OpenLineage events: each names its producer and the schema that it conforms to.

Facts without an OpenLineage facet have facets of Headrace, which facets.json describes.
"""

from __future__ import annotations

from typing import Any

from headrace import __version__

__all__ = ["PRODUCER", "SPEC", "facet"]

PRODUCER = f"headrace://headrace/{__version__}"
SPEC = "https://openlineage.io/spec"
_OWN_SCHEMA = "headrace://headrace/lineage/facets-1.json"
_SCHEMAS = {
    "columnLineage": "1-2-0/ColumnLineageDatasetFacet",
    "dataQualityAssertions": "1-1-0/DataQualityAssertionsDatasetFacet",
    "datasetType": "1-0-1/DatasetTypeDatasetFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "inputStatistics": "1-0-0/InputStatisticsInputDatasetFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
    "parent": "1-2-0/ParentRunFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
    "schema": "1-2-0/SchemaDatasetFacet",
    "sourceCodeLocation": "1-1-0/SourceCodeLocationJobFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
}
_OWN = {
    "headrace_facts": "FactsDatasetFacet",
    "headrace_model": "ModelDatasetFacet",
    "headrace_position": "PositionDatasetFacet",
    "headrace_run": "RunFacet",
}


def facet(name: str, /, **fields: Any) -> dict[str, Any]:
    """The facet of this name (its key in the event) with these fields."""
    if name in _OWN:
        schema = f"{_OWN_SCHEMA}#/$defs/{_OWN[name]}"
    else:
        path = _SCHEMAS[name]
        schema = f"{SPEC}/facets/{path}.json#/$defs/{path.partition('/')[2]}"
    return {"_producer": PRODUCER, "_schemaURL": schema, **fields}
