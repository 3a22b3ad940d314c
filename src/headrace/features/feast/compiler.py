"""compile: a model's Feast objects → its plan, which no longer needs Feast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from feast import FeatureService, FeatureView, OnDemandFeatureView
from feast.base_feature_view import BaseFeatureView

from headrace.code.index import CodeIndex
from headrace.declare.model import Model
from headrace.features.feast.objects import FeastObjects, find
from headrace.features.feast.source import TableSource, topics_of
from headrace.features.feast.types import declared_columns
from headrace.features.feast.views import entity_key, fields, on_demand, request_fields, stored
from headrace.features.plan import FeaturePlan, FeatureRef, View
from headrace.features.values.matrix import check_dtypes
from headrace.kernel.errors import ProjectError
from headrace.projects.loader import project_files
from headrace.projects.project import Project

__all__ = ["compile", "settled"]


def settled(project: Project) -> FeastObjects:
    """The project's Feast objects, their table sources told what the whole project knows."""
    found = find(project.modules, project.models.values())
    index = CodeIndex(project_files(project.settings))
    for view in found.views.values():
        source = getattr(view, "batch_source", None)
        if isinstance(source, TableSource):
            source.settle(project, index)
    return found


def compile(project: Project, model: Model) -> FeaturePlan:  # noqa: A001 (it is what this does)
    """The plan of a model's features.

    Raises:
        ProjectError: a view, an aggregation, a field or an entity is wrong, or the labels lack what
            the features need; it names the place and the remedy.
    """
    found = settled(project)
    service = model.features
    if not isinstance(service, FeatureService):
        raise ProjectError(
            f"features of model {model.name!r} are a {type(service).__name__}",
            where=str(model.place),
            remedy='Give it a Feast FeatureService: FeatureService(name="...", features=[...]).',
        )
    chosen = _chosen(service, found)
    on_demand_views = [found.views[name] for name, _ in chosen]
    on_demand_views = [one for one in on_demand_views if isinstance(one, OnDemandFeatureView)]
    names = dict.fromkeys(name for name, _ in chosen if name not in {one.name for one in on_demand_views})
    for one in on_demand_views:
        names |= dict.fromkeys(one.source_feature_view_projections)
    views: list[View] = []
    read = [_of_project(found, name, found.place(service)) for name in names]
    for view in read:
        with _readable(view, found.place(view)):
            views.append(stored(view, found.entities, found.place(view)))
    keys = dict.fromkeys(name for view in read for name in view.entities)
    for one in on_demand_views:
        with _readable(one, found.place(one)):
            views.append(on_demand(one, found.place(one)))
    columns = declared_columns(model.labels)
    features = tuple(ref for _, refs in chosen for ref in refs)
    check_dtypes(features, where=found.place(service))
    _check_names(features, found.place(service))
    plan = FeaturePlan(
        model=model.name,
        entities=tuple(
            entity_key(found.entities[key], read, columns, found.place(found.entities[key])) for key in keys
        ),
        views=tuple(views),
        features=features,
        request=request_fields(on_demand_views, found.place(service)),
        missing=_missing(model, features),
        labels_topics=topics_of(project, model.labels),
    )
    _labels_suffice(model, plan, columns)
    return plan


@contextmanager
def _readable(view: Any, where: str) -> Iterator[None]:
    """What Feast takes of any type, and is of none that it means, is an error of the project."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise ProjectError(
            f"feature view {view.name!r} can't be read: {error}",
            where=where,
            remedy="Look at the types of its arguments.",
        ) from error


def _chosen(service: FeatureService, found: FeastObjects) -> list[tuple[str, list[FeatureRef]]]:
    """View and features of each entry of the service, in its order."""
    where = found.place(service)
    chosen = []
    for entry in service._features:
        if isinstance(entry, str):
            name, _, feature = entry.partition(":")
            view: BaseFeatureView = _of_project(found, name, where)
            listed = [one for one in view.features if not feature or one.name == feature]
            if not listed:
                raise ProjectError(f"{entry!r} names no feature of {name!r}", where=where)
        else:
            projection = entry.projection
            if projection.name_alias or projection.join_key_map or projection.version_tag is not None:
                raise ProjectError(
                    f"service {service.name!r} takes {entry.name!r} under another name, key or version",
                    where=where,
                    remedy="Declare a feature view of its own for it.",
                )
            view, listed = _of_project(found, entry.name, where), projection.features
        refs = [FeatureRef(view.name, one.name, one.dtype) for one in fields(listed, found.place(view))]
        chosen.append((view.name, refs))
    columns = [ref.column for _, refs in chosen for ref in refs]
    for column in columns:
        if columns.count(column) > 1:
            raise ProjectError(f"service {service.name!r} takes {column} twice", where=where)
    return chosen


def _of_project(found: FeastObjects, name: str, where: str) -> Any:
    view = found.views.get(name)
    if not isinstance(view, (FeatureView, OnDemandFeatureView)):
        raise ProjectError(
            f"feature view {name!r} is not at the top of any module",
            where=where,
            remedy="Give it a name of its own there: user_activity = StreamFeatureView(...).",
        )
    return view


def _missing(model: Model, features: Sequence[FeatureRef]) -> Any:
    """The policy; defaults may name a feature by its name alone where only one has it."""
    if not isinstance(model.missing, Mapping):
        return model.missing
    defaults = {}
    for given, value in model.missing.items():
        columns = [ref.column for ref in features if given in (ref.column, ref.name)]
        if len(columns) != 1:
            many = "more than one" if columns else "no"
            raise ProjectError(
                f"missing={{{given!r}: ...}} of model {model.name!r} names {many} feature",
                where=str(model.place),
                remedy=f"Its features are {', '.join(ref.column for ref in features)}.",
            )
        (ref,) = [ref for ref in features if ref.column == columns[0]]
        if isinstance(value, str) != (ref.dtype == "string"):
            raise ProjectError(
                f"missing={{{given!r}: {value!r}}} of model {model.name!r}: the feature is {ref.dtype}",
                where=str(model.place),
                remedy="Text has a default of text, and all other features a number, True or False.",
            )
        defaults[ref.column] = value
    return defaults


def _check_names(features: Sequence[FeatureRef], where: str) -> None:
    """XGBoost refuses these signs, and does so after the search."""
    for ref in features:
        if any(sign in ref.column for sign in "[]<"):
            raise ProjectError(
                f"{ref.column!r} is not a valid feature name: it has one of the signs [, ] and <",
                where=where,
                remedy="Give the feature another name.",
            )


def _labels_suffice(model: Model, plan: FeaturePlan, columns: Mapping[str, str] | None) -> None:
    """The labels carry every entity's key and every field of the request, of its type, and a numeric target."""
    keys = {key.join_key: key.name for key in plan.entities}
    for field in plan.request:
        if field.name in keys:
            raise ProjectError(
                f"the request field {field.name!r} of model {model.name!r} has the name of entity"
                f" {keys[field.name]!r}'s key, and a request names both in one object",
                where=str(model.place),
                remedy="Give the field of the RequestSource another name.",
            )
    if columns is None:
        return
    if columns.get(model.target, "bool") not in ("int64", "float64", "bool"):
        raise ProjectError(
            f"the target {model.target!r} of model {model.name!r} is {columns[model.target]}; it is 0 or 1",
            where=str(model.place),
            remedy=f"Make a column of 0 and 1 of it in {model.labels.name}.",
        )
    needed: list[tuple[str, str, str]]
    needed = [(key.join_key, key.dtype, f"the key of entity {key.name!r}") for key in plan.entities]
    needed += [(field.name, field.dtype, "a field of the request") for field in plan.request]
    for name, dtype, role in needed:
        if name in columns and not _alike(columns[name], dtype):
            raise ProjectError(
                f"{name!r}, {role}, is declared as {dtype}, and labels {model.labels.name!r} of model"
                f" {model.name!r} have {columns[name]}",
                where=str(model.place),
                remedy="Give both one type.",
            )
        if name not in columns:
            raise ProjectError(
                f"labels {model.labels.name!r} of model {model.name!r} lack {name!r}, {role}",
                where=str(model.place),
                remedy=f"Columns of {model.labels.name}: {', '.join(columns)}.",
            )


def _alike(column: str, dtype: str) -> bool:
    """Whether a column can hold values of the dtype. Among numbers the rows decide (point_in_time.join)."""
    numbers = ("int64", "float64", "bool")
    return column == dtype or (column in numbers and dtype in numbers)
