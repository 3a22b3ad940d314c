"""Versions of feature views (`view@v2`): the definitions that Feast's registry keeps of earlier applies.

Each version is compiled from its own record, so it has a digest, and a state in the online store, of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView, StreamFeatureView, ValueType
from feast.base_feature_view import BaseFeatureView
from feast.feature_view_projection import FeatureViewProjection
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import _get_cached_request_context

from headrace.features.feast.internals import service_entries
from headrace.features.feast.objects import FeastObjects
from headrace.features.feast.views import entity_names
from headrace.features.online import OnlineStore
from headrace.features.plan import StoredView, WindowedView
from headrace.kernel.errors import CallError, ProjectError, Unavailable

__all__ = [
    "check_entities",
    "check_versions",
    "has_entities",
    "names_version",
    "refuse_versions",
    "require_state",
]


def refuse_versions(objects: FeastObjects) -> None:
    """Raises ProjectError if the project's code names a version: a registry that was made anew lacks it."""
    for view in objects.views.values():
        is_latest = (getattr(view, "version", None) or "latest").lower() == "latest"
        if not is_latest:
            _refuse(
                f"feature view {view.name!r} is declared with version={view.version!r}", objects.place(view)
            )
        if isinstance(view, OnDemandFeatureView):
            _refuse_projections(view.source_feature_view_projections.values(), view, objects)
    for service in objects.services.values():
        for entry in service_entries(service):
            if isinstance(entry, str) and "@" in entry.partition(":")[0]:
                _refuse(f"service {service.name!r} takes {entry!r}", objects.place(service))
        _refuse_projections(service.feature_view_projections, service, objects)


def _refuse_projections(
    projections: Iterable[FeatureViewProjection], taker: object, objects: FeastObjects
) -> None:
    for projection in projections:
        if projection.version_tag is not None:
            what = f"{projection.name!r} is taken in version {projection.version_tag}"
            _refuse(what, objects.place(taker))


def _refuse(what: str, where: str) -> None:
    raise ProjectError(
        what,
        where=where,
        remedy="Take the view as it is declared: builds come from the code, and git has its other versions.",
    )


def names_version(features: list[str] | FeatureService) -> bool:
    """Whether a request names a version of a view."""
    if isinstance(features, FeatureService):
        texts = [entry for entry in service_entries(features) if isinstance(entry, str)]
        pins = [projection.version_tag for projection in features.feature_view_projections]
        return names_version(texts) or any(pin is not None for pin in pins)
    return any("@" in reference for reference in features)


def check_versions(
    registry: BaseRegistry, project: str, features: list[str] | FeatureService, full_feature_names: bool
) -> None:
    """Checks that Feast can read the versions in a request for online features.

    Args:
        registry, project, features, full_feature_names: see Feast's FeatureStore.get_online_features.

    Raises:
        CallError: two versions of one on-demand view are asked for, or one and a version of a view that it
            reads: Feast would take one of the two for both. Or a version aggregates the rows of another table
            than its view does now, or of other code: ingest does not keep such a state up to date.
    """
    context = _get_cached_request_context(registry, project, features, full_feature_names)
    on_demand, views = context[1], [view for view, _ in context[5]]
    versioned = [view for view in views if view.projection.version_tag is not None]
    for index, view in enumerate(on_demand):
        read = {projection.name for projection in view.source_feature_view_projections.values()}
        others = [other for other in on_demand[:index] if other.name == view.name]
        others += [other for other in versioned if other.name in read]
        if others:
            names = [asked.projection.name_to_use() for asked in (others[0], view)]
            raise CallError(
                f"{names[0]!r} and {names[1]!r} cannot be read online in one call: Feast would compute"
                f" {names[1]!r} from one definition of both",
                remedy="Ask for them in two calls.",
            )
    for view in versioned:
        current = registry.get_any_feature_view(view.name, project, allow_cache=True)
        is_windowed = isinstance(view, StreamFeatureView) and view.aggregations
        if is_windowed and _rows_of(view) != _rows_of(current):
            raise CallError(
                f"{view.projection.name_to_use()!r} cannot be read online, because its state may stand still:"
                f" its view reads another table than {view.batch_source.name} now, or that table's function has"
                " changed",
                remedy="Read the view without a version, or this one by get_historical_features.",
            )


def has_entities(view: FeatureView, entities: Mapping[str, Entity]) -> bool:
    """Whether these are the view's entities, with the join keys and the types of keys that the view has."""
    is_known = all(name in entities for name in entity_names(view))
    return is_known and not any(_changed_entities(view, entities))


def check_entities(view: FeatureView, entities: Mapping[str, Entity]) -> None:
    """Raises CallError if an entity of the view has another join key, or one of another type, than when the
    version of the view was made: Feast's registry keeps no versions of entities."""
    for name, was, is_now in _changed_entities(view, entities):
        version = f"{view.name}@v{view.current_version_number}"
        raise CallError(
            f"{version!r} cannot be read: its entity {name!r} had the key {was}, and has {is_now} now",
            remedy="Feast keeps no versions of entities: read the view without a version, or declare a new"
            " entity for the new key.",
        )


def _changed_entities(view: FeatureView, entities: Mapping[str, Entity]) -> Iterator[tuple[str, str, str]]:
    """The name, the former key and the present key of each entity that has changed since the view was made."""
    columns = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    for name in entity_names(view):
        entity = entities.get(name)
        if entity is None or not columns:
            continue
        key, kind = entity.join_key, entity.value_type
        if key not in columns:
            yield name, " and ".join(map(repr, columns)), repr(key)
        elif ValueType.UNKNOWN not in (kind, columns[key]) and kind != columns[key]:
            yield name, f"{key!r} ({columns[key].name})", f"{key!r} ({kind.name})"


def _rows_of(view: BaseFeatureView) -> tuple[str | None, str | None]:
    """The table of a view and the fingerprint of its function."""
    source = getattr(view, "batch_source", None)
    return getattr(source, "name", None), getattr(source, "code", None)


def require_state(store: OnlineStore, view: StoredView, projection: FeatureViewProjection) -> None:
    """Raises Unavailable if the version that a projection names was never filled."""
    if store.position(view) is not None:
        return
    version = f"v{projection.version_tag}"
    raise Unavailable(
        f"{projection.name_to_use()!r} holds no values online",
        remedy="Ingest keeps the windowed views of the last build and of releases: read this one by"
        " get_historical_features."
        if isinstance(view, WindowedView)
        else f"Fill it: store.materialize(start, end, feature_views=[{projection.name!r}],"
        f" version={version!r}).",
    )
