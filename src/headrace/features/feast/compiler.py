"""compile: compiles a model's Feast objects to its plan, which does not need Feast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from feast import FeatureService, FeatureView, OnDemandFeatureView
from feast.base_feature_view import BaseFeatureView
from feast.feature_view_projection import FeatureViewProjection

from headrace.code.index import CodeIndex
from headrace.declare.model import Model, task_of
from headrace.features.feast.internals import service_entries
from headrace.features.feast.objects import FeastObjects, find_objects
from headrace.features.feast.source import TableSource, topics_of
from headrace.features.feast.types import schema_columns
from headrace.features.feast.versions import refuse_versions
from headrace.features.feast.views import (
    add_key_dtypes,
    compile_entity_keys,
    compile_fields,
    compile_on_demand_view,
    compile_stored_view,
    rename_view,
    request_fields,
)
from headrace.features.plan import FeaturePlan, FeatureRef, StoredView, View
from headrace.features.values.matrix import check_dtypes
from headrace.kernel.errors import ProjectError
from headrace.projects.loader import project_files
from headrace.projects.project import Project

__all__ = ["collect_objects", "compile", "service_features"]

_NUMBERS = ("int64", "float64", "bool")


def collect_objects(project: Project) -> FeastObjects:
    """Collects the project's Feast objects, and completes their table sources with facts about the whole
    project.

    Raises:
        ProjectError: two objects of one kind share a name, or one names a version of a view.
    """
    objects = find_objects(project.modules, project.models.values())
    refuse_versions(objects)
    code = CodeIndex(project_files(project.settings))
    for view in objects.views.values():
        source = getattr(view, "batch_source", None)
        if isinstance(source, TableSource):
            source.complete(project, code)
    return objects


def compile(project: Project, model: Model) -> FeaturePlan:  # noqa: A001
    """Compiles the plan of a model's features.

    Raises:
        ProjectError: a view, an aggregation, a field or an entity is not valid, or the labels lack a column
        that
            the features need; the error names the place and the remedy.
    """
    objects = collect_objects(project)
    service = model.features
    if not isinstance(service, FeatureService):
        raise ProjectError(
            f"the features of model {model.name!r} must be a FeatureService, not a {type(service).__name__}",
            where=str(model.place),
            remedy='Give it a Feast FeatureService: FeatureService(name="...", features=[...]).',
        )
    where = objects.place(service)
    entries = service_features(service, objects)
    features = tuple(feature for _, listed in entries for feature in listed)
    stored, on_demand = _views_of([projection for projection, _ in entries], objects, where)
    renamed: list[StoredView] = []
    for view, projection in stored:
        with _name_view_in_errors(view, objects.place(view)):
            compiled = compile_stored_view(view, objects.entities, objects.place(view))
            renamed.append(rename_view(compiled, projection, where))
    columns = schema_columns(model.labels)
    entities = compile_entity_keys(stored, objects.entities, columns, objects.place)
    views: list[View] = [add_key_dtypes(view, entities) for view in renamed]
    for on_demand_view in on_demand:
        with _name_view_in_errors(on_demand_view, objects.place(on_demand_view)):
            views.append(compile_on_demand_view(on_demand_view, objects.place(on_demand_view)))
    check_dtypes(features, where=where)
    _check_names(features, where)
    plan = FeaturePlan(
        model=model.name,
        entities=entities,
        views=tuple(views),
        features=features,
        request=request_fields(on_demand, where),
        missing=_missing(model, features),
        labels_topics=topics_of(project, model.labels),
        unavailable=model.unavailable,
        service=service.name,
    )
    _check_labels(model, plan, columns)
    return plan


def _views_of(
    projections: Sequence[FeatureViewProjection], objects: FeastObjects, where: str
) -> tuple[list[tuple[FeatureView, FeatureViewProjection]], list[OnDemandFeatureView]]:
    """The stored views and the on-demand views that a service names; the former include those that the latter
    read. A stored view may be there under several names."""
    on_demand: dict[str, OnDemandFeatureView] = {}
    stored: dict[str, FeatureViewProjection] = {}
    for projection in projections:
        view = objects.views[projection.name]
        if isinstance(view, OnDemandFeatureView):
            on_demand[view.name] = view
        else:
            _add_projection(stored, projection, where)
    for view in on_demand.values():
        for projection in view.source_feature_view_projections.values():
            _add_projection(stored, projection, where)
    pairs = [(_view_of_project(objects, projection.name, where), projection) for projection in stored.values()]
    return pairs, list(on_demand.values())


def _add_projection(
    stored: dict[str, FeatureViewProjection], projection: FeatureViewProjection, where: str
) -> None:
    """Adds a stored view under the name that it is taken by. Raises ProjectError for another view of this
    name."""
    name = projection.name_to_use()
    other = stored.setdefault(name, projection)
    if (other.name, other.join_key_map) != (projection.name, projection.join_key_map):
        raise ProjectError(
            f"{name!r} stands for {other.name!r} and for {projection.name!r}, or for two sets of keys",
            where=where,
            remedy="Give each its own name: with_name().",
        )


@contextmanager
def _name_view_in_errors(view: BaseFeatureView, where: str) -> Iterator[None]:
    """Names the view in the error if an argument is not of the type that Feast expects but does not check.

    Raises:
        ProjectError: the block raised AttributeError or TypeError.
    """
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise ProjectError(
            f"feature view {view.name!r} cannot be read: {error}",
            where=where,
            remedy="Check the types of its arguments.",
        ) from error


def service_features(
    service: FeatureService, objects: FeastObjects
) -> list[tuple[FeatureViewProjection, list[FeatureRef]]]:
    """The view, as it is taken, and the features of each entry of the service, in order.

    Raises:
        ProjectError: an entry names no view or feature of the project, or two entries have one feature.
    """
    where = objects.place(service)
    entries = []
    for entry in service_entries(service):
        if isinstance(entry, str):
            name, _, feature = entry.partition(":")
            view: BaseFeatureView = _view_of_project(objects, name, where)
            listed = [field for field in view.features if not feature or field.name == feature]
            if not listed:
                raise ProjectError(f"{entry!r} does not name a feature of {name!r}", where=where)
            projection = FeatureViewProjection.from_feature_view_definition(view)
        else:
            projection = entry.projection
            view, listed = _view_of_project(objects, entry.name, where), projection.features
            if isinstance(view, OnDemandFeatureView) and projection.name_to_use() != view.name:
                raise ProjectError(
                    f"service {service.name!r} takes the on-demand view {view.name!r} under another name",
                    where=where,
                    remedy="Declare a separate view for it.",
                )
        name = projection.name_to_use()
        features = compile_fields(listed, objects.place(view))
        entries.append((projection, [FeatureRef(name, field.name, field.dtype) for field in features]))
    columns = [feature.column for _, features in entries for feature in features]
    for column in columns:
        if columns.count(column) > 1:
            raise ProjectError(f"service {service.name!r} takes {column} twice", where=where)
    return entries


def _view_of_project(objects: FeastObjects, name: str, where: str) -> Any:
    view = objects.views.get(name)
    if not isinstance(view, (FeatureView, OnDemandFeatureView)):
        raise ProjectError(
            f"feature view {name!r} is not at the top of any module",
            where=where,
            remedy="Bind it to a name there: user_activity = StreamFeatureView(...).",
        )
    return view


def _missing(model: Model, features: Sequence[FeatureRef]) -> Any:
    """The policy for missing features. Defaults may omit the view of a feature whose name is unique."""
    if not isinstance(model.missing, Mapping):
        return model.missing
    defaults = {}
    for name, value in model.missing.items():
        columns = [ref.column for ref in features if name in (ref.column, ref.name)]
        if len(columns) != 1:
            many = "more than one" if columns else "no"
            raise ProjectError(
                f"missing={{{name!r}: ...}} of model {model.name!r} names {many} feature",
                where=str(model.place),
                remedy=f"Its features are {', '.join(ref.column for ref in features)}.",
            )
        (ref,) = [ref for ref in features if ref.column == columns[0]]
        if isinstance(value, str) != (ref.dtype == "string"):
            raise ProjectError(
                f"missing={{{name!r}: {value!r}}} of model {model.name!r}: the feature is {ref.dtype}",
                where=str(model.place),
                remedy="Text has a default of text, and all other features a number, True or False.",
            )
        defaults[ref.column] = value
    return defaults


def _check_names(features: Sequence[FeatureRef], where: str) -> None:
    """Raises ProjectError for names that XGBoost refuses, and would refuse only after the search."""
    for ref in features:
        if any(sign in ref.column for sign in "[]<"):
            raise ProjectError(
                f"{ref.column!r} is not a valid feature name: it has one of the signs [, ] and <",
                where=where,
                remedy="Give the feature another name.",
            )


def _check_labels(model: Model, plan: FeaturePlan, columns: Mapping[str, str] | None) -> None:
    """Checks that the labels have every entity's key and every field of the request, of its type, and a target
    of a type that its task can have. Raises ProjectError if they do not."""
    keys = {key.join_key: key.name for key in plan.entities}
    for field in plan.request:
        if field.name in keys:
            raise ProjectError(
                f"the request field {field.name!r} of model {model.name!r} has the name of entity"
                f" {keys[field.name]!r}'s key, and a request has both in one object",
                where=str(model.place),
                remedy="Give the field of the RequestSource another name.",
            )
    if columns is None:
        return
    task = task_of(model)
    types = (*_NUMBERS, "string") if task in (None, "multiclass") else _NUMBERS
    if columns.get(model.target, "bool") not in types:
        raise ProjectError(
            f"the target {model.target!r} of model {model.name!r} is {columns[model.target]};"
            f" it must be {' or '.join(types)}{'' if task is None else f' for the task {task}'}",
            where=str(model.place),
            remedy=f"Make such a column of it in {model.labels.name}.",
        )
    needed: list[tuple[str, str, str]]
    needed = [(key.join_key, key.dtype, f"the key of entity {key.name!r}") for key in plan.entities]
    needed += [(field.name, field.dtype, "a field of the request") for field in plan.request]
    for name, dtype, role in needed:
        if name in columns and not _is_convertible(columns[name], dtype):
            raise ProjectError(
                f"{name!r}, {role}, is declared as {dtype}, and labels {model.labels.name!r} of model"
                f" {model.name!r} have {columns[name]}",
                where=str(model.place),
                remedy="Give both the same type.",
            )
        if name not in columns:
            raise ProjectError(
                f"labels {model.labels.name!r} of model {model.name!r} lack {name!r}, {role}",
                where=str(model.place),
                remedy=f"Columns of {model.labels.name}: {', '.join(columns)}.",
            )


def _is_convertible(column: str, dtype: str) -> bool:
    """Whether a column can hold values of the dtype. Between numbers, the rows decide (point_in_time.join)."""
    return column == dtype or (column in _NUMBERS and dtype in _NUMBERS)
