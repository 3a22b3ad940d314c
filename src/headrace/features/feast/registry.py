"""apply: the project's Feast objects into a Feast registry, so that stock Feast works on them."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast import FeatureStore, OnDemandFeatureView, StreamFeatureView
from feast.errors import FeastError
from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from headrace.code.by_value import serialize_function
from headrace.features.checks.applied import APPLIED, REGISTRY, folder, is_registry_as_applied, mark_of
from headrace.features.feast.compiler import settled
from headrace.features.feast.objects import FeastObjects
from headrace.features.feast.repository import YAML, described
from headrace.features.feast.views import fields, on_demand, request_fields
from headrace.features.plan import Dtype, OnDemandInput
from headrace.features.values.on_demand import OnDemand, OnDemandError, ReturnError
from headrace.kernel import faults
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import ProjectError
from headrace.kernel.private import make_private
from headrace.projects.project import Project

__all__ = ["ApplyResult", "apply", "fingerprints"]

_SAMPLE = {
    "int64": 1,
    "float64": 1.0,
    "string": "text",
    "bool": True,
    "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
}
# What Feast writes into its protos that is not what the user wrote.
_NOT_CONTENT = frozenset({"meta", "createdTimestamp", "lastUpdatedTimestamp", "body", "bodyText"})


class ApplyResult:
    """What `apply` did.

    Attributes:
        folder: what to give stock Feast as `repo_path`.
        changed: whether the registry was written.
        objects: how many objects the project declares.
    """

    def __init__(self, folder: Path, changed: bool, objects: int) -> None:
        self.folder = folder
        self.changed = changed
        self.objects = objects


def apply(project: Project) -> ApplyResult:
    """Writes feature_store.yaml and the registry into the state folder, if they are not as declared: also
    where Feast itself has written it since (`feast apply`, `teardown`, a deleted view).

    The registry is written beside the old one and takes its place in one step, so a reader, or a
    process killed at any point, finds the old or the new one, whole.

    Raises:
        ProjectError: two objects share a name, an on-demand function can't be carried, or Feast
            refuses an object.
    """
    found = settled(project)
    place = folder(project.settings)
    text = described(project.settings, place / REGISTRY)
    wanted = short_digest("\n".join([text, *sorted(f"{k}={v}" for k, v in _fingerprints(found).items())]))
    count = len(found.everything())
    mark = place / APPLIED
    if is_registry_as_applied(project.settings) and mark.read_text() == mark_of(project.settings, wanted):
        return ApplyResult(place, False, count)
    make_private(place)
    faults.reach("feast.apply.begin")
    _register(project, found, place)
    faults.reach("feast.apply.registry")
    _write(place / YAML, text)
    _write(mark, mark_of(project.settings, wanted))
    return ApplyResult(place, True, count)


def fingerprints(project: Project) -> dict[str, str]:
    """Kind and name of each Feast object (`feature_view:user_activity`) → 32 hex digits of its content.

    On-demand views count by what their functions reach. Comments and times change nothing.

    Raises:
        ProjectError: as `apply`.
    """
    return _fingerprints(settled(project))


def _fingerprints(found: FeastObjects) -> dict[str, str]:
    made = {}
    groups: list[tuple[str, dict[str, Any]]] = [
        ("entity", found.entities),
        ("feature_view", found.views),
        ("feature_service", found.services),
        ("data_source", found.sources),
    ]
    for kind, group in groups:
        for name, one in group.items():
            message = _content(MessageToDict(one.to_proto()))
            if isinstance(one, StreamFeatureView):  # Feast writes its fields in no order
                message["spec"]["features"].sort(key=lambda field: field["name"])
            content = [json.dumps(message, sort_keys=True)]
            if isinstance(one, OnDemandFeatureView):
                content.append(_text(one))
            made[f"{kind}:{name}"] = short_digest("\n".join(content))
    return made


def _register(project: Project, found: FeastObjects, place: Path) -> None:
    scratch = place / f"new-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    make_private(scratch)
    old, new = place / REGISTRY, scratch / REGISTRY
    if _is_readable(old):
        shutil.copyfile(old, new)  # what Feast knows of materializations stays
    (scratch / YAML).write_text(described(project.settings, new))
    store = FeatureStore(repo_path=str(scratch))
    gone = _gone(store, found)
    objects = _registered(found)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "On demand feature view is an experimental feature", RuntimeWarning
            )
            store.apply(objects, objects_to_delete=gone, partial=False)
    except (ValueError, TypeError, FeastError) as error:
        raise ProjectError(
            f"Feast refuses the project's feature definitions: {error}", where=str(project.settings.root)
        ) from error
    with new.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(new, old)
    shutil.rmtree(scratch)


def _registered(found: FeastObjects) -> list[Any]:
    """The objects as they go into the registry: copies, for Feast fills in what it infers.

    On-demand views carry the text of all that they reach: Feast rebuilds a function from its text
    alone, without the names of its module.
    """
    taken = copy.deepcopy(found.everything())
    for original, one in zip(found.everything(), taken, strict=True):
        if isinstance(one, OnDemandFeatureView) and one.feature_transformation is not None:
            one.feature_transformation.udf_string = _text(original)
            if _is_supported(original):
                _check_sample(original, found.place(original))
                # Feast would call it with a sample of its own and refuse what is right: None for a missing
                # feature, a whole number for a float. The schema says what it returns.
                one.infer_features = _infer_nothing
    return taken


def _infer_nothing() -> None:
    """In the place of Feast's own inference."""


def _is_supported(view: OnDemandFeatureView) -> bool:
    """Whether a model may use it (views.on_demand); others are in Feast's registry alone."""
    kept = view.write_to_online_store or view.aggregations
    return view.mode in ("python", "pandas") and bool(view.features) and not kept


def _check_sample(declared: OnDemandFeatureView, where: str) -> None:
    """Calls the function with a made-up row: what it returns must be the features it declares.

    A function that fails on the sample is not wrong by that: its real inputs may never be such.

    Raises:
        ProjectError: it returns other features, or of other types, than its schema.
    """
    view = on_demand(declared, where)
    dtypes: dict[OnDemandInput, Dtype] = {
        OnDemandInput(one.name): one.dtype for one in request_fields([declared], where)
    }
    for name, projection in declared.source_feature_view_projections.items():
        dtypes |= {OnDemandInput(one.name, name): one.dtype for one in fields(projection.features, where)}
    try:
        OnDemand(view, dtypes).compute_columns([[_sample(dtypes[one])] for one in view.inputs], 1)
    except ReturnError as error:
        raise ProjectError(
            f"on-demand view {view.name!r} does not return what its schema says: {error.what}",
            where=where,
            remedy="It was called with a sample of its inputs: let names and types of what it returns agree.",
        ) from error
    except OnDemandError:
        return


def _sample(dtype: Dtype) -> Any:
    return [_SAMPLE[dtype[5:-1]]] if dtype.startswith("list[") else _SAMPLE[dtype]


def _text(one: OnDemandFeatureView) -> str:
    if one.feature_transformation is None:
        return ""
    return serialize_function(one.feature_transformation.udf, decorator="on_demand_feature_view")


def _gone(store: FeatureStore, found: FeastObjects) -> list[Any]:
    """What the registry still has and the project no longer declares."""
    return [
        *(one for one in store.list_entities() if one.name not in found.entities),
        *(one for one in store.list_all_feature_views() if one.name not in found.views),
        *(one for one in store.list_feature_services() if one.name not in found.services),
    ]


def _is_readable(registry: Path) -> bool:
    try:
        Registry().ParseFromString(registry.read_bytes())
    except (FileNotFoundError, DecodeError):
        return False
    return True


def _content(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _content(one) for key, one in value.items() if key not in _NOT_CONTENT}
    if isinstance(value, list):
        return [_content(one) for one in value]
    return value


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
