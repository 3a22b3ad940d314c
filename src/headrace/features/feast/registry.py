"""apply: writes the project's Feast objects into a Feast registry, so that stock Feast can use them."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from feast import FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, StreamFeatureView
from feast.errors import FeastError
from feast.feature_view_projection import FeatureViewProjection
from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from headrace.code.by_value import serialize_function
from headrace.features.applied.registry import APPLIED, REGISTRY, folder, is_registry_as_applied, mark_of
from headrace.features.applied.sql_registry import find_sql_registry
from headrace.features.feast.compiler import collect_objects
from headrace.features.feast.internals import (
    compare_as_registered,
    service_entries,
    skip_inference,
    without_text,
)
from headrace.features.feast.objects import FeastObjects
from headrace.features.feast.repository import YAML, open_repository, repository_yaml
from headrace.features.feast.views import (
    add_key_dtypes,
    compile_entity_keys,
    compile_fields,
    compile_on_demand_view,
    compile_stored_view,
    request_fields,
)
from headrace.features.plan import Dtype, OnDemandInput
from headrace.features.values.on_demand import OnDemand, OnDemandError, ReturnError
from headrace.kernel import faults
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import ProjectError
from headrace.kernel.files import write_file
from headrace.kernel.private import make_private
from headrace.projects.project import Project

__all__ = ["ApplyResult", "apply", "fingerprints", "stored_digests"]

_SAMPLE = {
    "int64": 1,
    "float64": 1.0,
    "string": "text",
    "bool": True,
    "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    "bytes": b"bytes",
}
# Fields of Feast's protos that Feast sets, not the user.
_NOT_CONTENT = frozenset({"meta", "createdTimestamp", "lastUpdatedTimestamp", "body", "bodyText"})


class ApplyResult(NamedTuple):
    """The result of `apply`.

    Attributes:
        folder: stock Feast's `repo_path`.
        changed: whether the registry was written.
        objects: how many objects the project declares.
    """

    folder: Path
    changed: bool
    objects: int


def apply(project: Project) -> ApplyResult:
    """Writes feature_store.yaml and the registry into the state folder, unless they are as declared. They may
    differ because Feast itself has written them (`feast apply`, `teardown`, a deleted view).

    A registry in a file is replaced in one step, so that a reader finds the old or the new one, complete, even
    if this process is killed. In a database each object is replaced in one step; after a kill the next call
    writes the others.

    Raises:
        ProjectError: two objects share a name, an on-demand function cannot run in serving, or Feast
            refuses an object.
        Unavailable: the registry is on a server that cannot be reached, or its SQLite file cannot be used.
    """
    objects = collect_objects(project)
    place = folder(project.settings)
    yaml = repository_yaml(project.settings, place / REGISTRY)
    prints = sorted(f"{name}={digest}" for name, digest in _fingerprints(objects).items())
    declared = short_digest("\n".join([yaml, *prints]))
    count = len(objects.all_objects())
    mark = place / APPLIED
    if is_registry_as_applied(project.settings) and mark.read_text() == mark_of(project.settings, declared):
        return ApplyResult(place, False, count)
    make_private(place)
    faults.reach("feast.apply.begin")
    _write_registry(project, objects, place)
    faults.reach("feast.apply.registry")
    write_file(place / YAML, yaml)
    write_file(mark, mark_of(project.settings, declared))
    return ApplyResult(place, True, count)


def stored_digests(project: Project) -> dict[str, str]:
    """The name of each view that the project declares and the online store can have → the view's digest.

    Raises:
        ProjectError: two objects share a name.
    """
    objects = collect_objects(project)
    digests = {}
    for name, view in objects.views.items():
        if isinstance(view, FeatureView):
            with suppress(ProjectError):  # no plan and no read can have it either
                taken = view, FeatureViewProjection.from_feature_view_definition(view)
                keys = compile_entity_keys([taken], objects.entities, None, objects.place)
                compiled = compile_stored_view(view, objects.entities, objects.place(view))
                digests[name] = add_key_dtypes(compiled, keys).digest
    return dict(sorted(digests.items()))


def fingerprints(project: Project) -> dict[str, str]:
    """Kind and name of each Feast object (`feature_view:user_activity`) → the digest of its content, 32 hex
    digits.

    The content of an on-demand view includes everything that its function uses. Comments and times do not
    count.

    Raises:
        ProjectError: as `apply`.
    """
    return _fingerprints(collect_objects(project))


def _fingerprints(objects: FeastObjects) -> dict[str, str]:
    digests = {}
    groups: list[tuple[str, dict[str, Any]]] = [
        ("entity", objects.entities),
        ("feature_view", objects.views),
        ("feature_service", objects.services),
        ("data_source", objects.sources),
    ]
    for kind, group in groups:
        for name, value in group.items():
            texts = []
            if isinstance(value, FeatureService):
                texts = [entry for entry in service_entries(value) if isinstance(entry, str)]
                value = without_text(value)
            message = _content(MessageToDict(value.to_proto()))
            if isinstance(value, StreamFeatureView):  # Feast writes its fields in no fixed order
                message["spec"]["features"].sort(key=lambda field: field["name"])
            content = [json.dumps(message, sort_keys=True), *texts]
            if isinstance(value, OnDemandFeatureView):
                content.append(_source_text(value))
            digests[f"{kind}:{name}"] = short_digest("\n".join(content))
    return digests


def _write_registry(project: Project, objects: FeastObjects, place: Path) -> None:
    scratch = place / f"new-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    make_private(scratch)
    old, new = place / REGISTRY, scratch / REGISTRY
    database = find_sql_registry(project.settings)
    if database is not None:
        database.prepare()
    elif _is_readable(old):
        shutil.copyfile(old, new)  # keeps the materializations that Feast recorded
    (scratch / YAML).write_text(repository_yaml(project.settings, new))
    with open_repository(scratch) as store:
        _apply_objects(project, objects, store)
    if database is None:
        write_file(old, new.read_bytes())
    shutil.rmtree(scratch)


def _apply_objects(project: Project, objects: FeastObjects, store: FeatureStore) -> None:
    deleted = _objects_to_delete(store, objects)
    registrable = _registrable_objects(objects)
    for view in store.list_all_feature_views():
        if view.name in objects.views and type(view) is not type(objects.views[view.name]):
            store.registry.delete_feature_view(
                view.name, store.project
            )  # Feast replaces no view by another kind
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "On demand feature view is an experimental feature", RuntimeWarning
            )
            store.apply(registrable, objects_to_delete=deleted, partial=False)
    except (ValueError, TypeError, FeastError) as error:
        raise ProjectError(
            f"Feast refuses the project's feature definitions: {error}", where=str(project.settings.root)
        ) from error


def _registrable_objects(objects: FeastObjects) -> list[Any]:
    """Copies of the objects for the registry, because Feast changes them: it fills in what it infers.

    On-demand views carry the text of everything that they use, because Feast rebuilds a function from its text
    alone, without the names of its module.
    """
    originals = objects.all_objects()
    copies = copy.deepcopy(originals)
    for original, view in zip(originals, copies, strict=True):
        if isinstance(view, StreamFeatureView):
            compare_as_registered(view)
        if isinstance(view, OnDemandFeatureView) and view.feature_transformation is not None:
            view.feature_transformation.udf_string = _source_text(original)
            if _is_supported(original):
                _check_sample(original, objects.place(original))
                skip_inference(view)
    return copies


def _is_supported(view: OnDemandFeatureView) -> bool:
    """Whether a model may use the view (`compile_on_demand_view`); other views are only in Feast's registry."""
    stored = view.write_to_online_store or view.aggregations
    return view.mode in ("python", "pandas") and bool(view.features) and not stored


def _check_sample(declared: OnDemandFeatureView, where: str) -> None:
    """Calls the function with a sample row, and checks that it returns the features of its schema.

    A function may fail on the sample, because its real inputs may never be like it.

    Raises:
        ProjectError: it returns other features than its schema has, or of other types.
    """
    view = compile_on_demand_view(declared, where)
    dtypes: dict[OnDemandInput, Dtype] = {
        OnDemandInput(field.name): field.dtype for field in request_fields([declared], where)
    }
    for name, projection in declared.source_feature_view_projections.items():
        for field in compile_fields(projection.features, where):
            dtypes[OnDemandInput(field.name, name)] = field.dtype
    try:
        OnDemand(view, dtypes).compute_columns([[_sample(dtypes[source])] for source in view.inputs], 1)
    except ReturnError as error:
        raise ProjectError(
            f"on-demand view {view.name!r} does not return the features of its schema: {error.what}",
            where=where,
            remedy="It was called with a sample of its inputs: make its results and its schema agree.",
        ) from error
    except OnDemandError:
        return


def _sample(dtype: Dtype) -> Any:
    return [_SAMPLE[dtype[5:-1]]] if dtype.startswith("list[") else _SAMPLE[dtype]


def _source_text(view: OnDemandFeatureView) -> str:
    if view.feature_transformation is None:
        return ""
    return serialize_function(view.feature_transformation.udf, decorator="on_demand_feature_view")


def _objects_to_delete(store: FeatureStore, objects: FeastObjects) -> list[Any]:
    """The registry's objects that the project no longer declares."""
    return [
        *(entity for entity in store.list_entities() if entity.name not in objects.entities),
        *(view for view in store.list_all_feature_views() if view.name not in objects.views),
        *(service for service in store.list_feature_services() if service.name not in objects.services),
    ]


def _is_readable(registry: Path) -> bool:
    try:
        Registry().ParseFromString(registry.read_bytes())
    except (FileNotFoundError, DecodeError):
        return False
    return True


def _content(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _content(item) for key, item in value.items() if key not in _NOT_CONTENT}
    if isinstance(value, list):
        return [_content(item) for item in value]
    return value
