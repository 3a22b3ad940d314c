"""Checks Feast's feature views and entities, and compiles them to those of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from feast import BatchFeatureView, Entity, FeatureView, OnDemandFeatureView, StreamFeatureView, ValueType
from feast.aggregation import Aggregation as FeastAggregation
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.feature_view_projection import FeatureViewProjection
from msgspec.structs import replace

from headrace.code.by_value import serialize_function
from headrace.declare.changes import CHANGED_AT
from headrace.features.aggregates import parse_function, result_dtype
from headrace.features.feast.source import TableSource
from headrace.features.feast.types import dtype_of
from headrace.features.plan import (
    LIFETIME,
    Aggregation,
    AsOfView,
    Dtype,
    EntityKey,
    OnDemandInput,
    OnDemandView,
    PlanField,
    StoredView,
    WindowedView,
    hop_of,
)
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import format_duration, parse_duration

__all__ = [
    "TakenView",
    "add_key_dtypes",
    "compile_entity_keys",
    "compile_fields",
    "compile_on_demand_view",
    "compile_stored_view",
    "entity_names",
    "rename_view",
    "request_fields",
]

TakenView = tuple[FeatureView, FeatureViewProjection]
"""A view, and the projection that says under which name and keys it is taken."""

_MICROSECOND = timedelta(microseconds=1)
_OFFSET = "offset."  # the tag of a view that says how long before the moment a feature's window ends
_LONGEST_OFFSET = timedelta(days=36_525) // _MICROSECOND
_KEYS: dict[ValueType, str] = {
    ValueType.INT64: "int64",
    ValueType.INT32: "int64",
    ValueType.STRING: "string",
}


def compile_stored_view(view: FeatureView, entities: Mapping[str, Entity], where: str) -> StoredView:
    """Compiles a plain feature view, or a stream feature view with aggregations.

    Raises:
        ProjectError: its source is not a TableSource, or the table lacks one of its columns.
    """
    source = getattr(view, "batch_source", None)  # an on-demand view has none
    if not isinstance(source, TableSource):
        raise ProjectError(
            f"feature view {view.name!r} reads a {type(source).__name__}, not a TableSource",
            where=where,
            remedy="Give it source=TableSource(table), or a PushSource around one.",
        )
    aggregations = getattr(view, "aggregations", None) or []
    if aggregations and isinstance(view, BatchFeatureView):
        raise ProjectError(
            f"{view.name!r} is a BatchFeatureView, which loses its aggregations in Feast's registry",
            where=where,
            remedy="Make it a StreamFeatureView with a PushSource around the TableSource.",
        )
    if getattr(view, "udf", None) is not None:
        raise ProjectError(
            f"feature view {view.name!r} transforms its rows itself (udf)",
            where=where,
            remedy="Do that in a @table, which is audited and has snapshots.",
        )
    keys = _keys(view, source, entities, where)
    if isinstance(view, StreamFeatureView) and aggregations:
        return _compile_windowed(view, source, keys, where)
    # Feast's registry lists the keys of a StreamFeatureView among its features.
    features = tuple(field for field in compile_fields(view.features, where) if field.name not in keys)
    if isinstance(view, StreamFeatureView):  # Feast writes its fields in no fixed order
        features = tuple(sorted(features, key=lambda field: field.name))
    if not features:
        raise ProjectError(
            f"feature view {view.name!r} has no schema",
            where=where,
            remedy="List its features: schema=[Field(name=..., dtype=...)].",
        )
    for field in features:
        column = _column(source, field.name, view.name, where)
        _check_same_dtype(field.dtype, column, f"{view.name}:{field.name}", where)
    _check_changelog(view, source, keys, where)
    created = source.created_timestamp_column
    compiled = AsOfView(
        name=view.name,
        keys=keys,
        table=source.name,
        time=source.timestamp_field,
        features=features,
        ttl=view.ttl // _MICROSECOND if view.ttl else None,
        topics=source.topics,
        delay=_delay_of(source, view, where),
        field_mapping=source.field_mapping,
        created=source.field_mapping.get(created, created) or None,
        is_current=source.is_current,
    )
    _check_roles(compiled, where)
    return compiled


def add_key_dtypes(view: StoredView, entities: Iterable[EntityKey]) -> StoredView:
    """The view with the dtypes of its keys, as a plan with these entities has it."""
    dtypes: dict[str, Dtype] = {entity.join_key: entity.dtype for entity in entities}
    return replace(view, key_dtypes=tuple(dtypes[key] for key in view.keys))


def rename_view(view: StoredView, projection: FeatureViewProjection, where: str) -> StoredView:
    """The view under the name and the join keys that a projection gives it; its state is its own.

    Raises:
        ProjectError: the projection names other join keys of a windowed view.
    """
    name, keys = projection.name_to_use(), projection.join_key_map
    if not keys:
        return replace(view, name=name)
    if isinstance(view, WindowedView):
        raise ProjectError(
            f"windowed view {view.name!r} is taken under other join keys",
            where=where,
            remedy="Declare a separate view over a @table(rowwise=True) that has these keys.",
        )
    columns = {view.column(key): mapped for key, mapped in keys.items() if key in view.keys}
    renamed = replace(
        view,
        name=name,
        keys=tuple(keys.get(key, key) for key in view.keys),
        field_mapping=view.field_mapping | columns,
    )
    _check_roles(renamed, where)
    return renamed


def _check_roles(view: AsOfView, where: str) -> None:
    """Raises ProjectError if a feature has the name of the view's time or of a key, or if two keys are one."""
    roles = {view.time: "timestamp_field", **dict.fromkeys(view.keys, "join key")}
    for field in view.features:
        if field.name in roles:
            raise ProjectError(
                f"feature {view.name}:{field.name} has the name of the view's {roles[field.name]}",
                where=where,
                remedy=f"To have its value as a feature, give {view.table} a copy of the column with another"
                " name, and name that in the schema.",
            )
    if len(roles) <= len(view.keys):
        raise ProjectError(
            f"feature view {view.name!r} has one column for two of its join keys and its timestamp_field",
            where=where,
            remedy=f"Its keys are {', '.join(view.keys)}, and its timestamp_field is {view.time}.",
        )


def _check_changelog(view: FeatureView, source: TableSource, keys: Sequence[str], where: str) -> None:
    """Checks the keys and the time of an as-of view on a topic of a database's changes. A deleted row has its
    key and the time of the change alone: by others it would be visible for ever.

    Raises:
        ProjectError: they are others.
    """
    time, columns = source.column(source.timestamp_field), [source.column(key) for key in keys]
    if not source.row_key or (sorted(columns) == sorted(source.row_key) and time == CHANGED_AT):
        return
    what = f"has the keys {', '.join(columns)}" if columns else "has no entity"
    wrong = what if time == CHANGED_AT else f"has timestamp_field={time!r}"
    raise ProjectError(
        f"feature view {view.name!r} reads the changes of {source.name}, and {wrong}: a deleted row has only"
        f" its key ({', '.join(source.row_key)}) and {CHANGED_AT}",
        where=where,
        remedy="Give it these; or read the current rows: TableSource(current(...)).",
    )


def _delay_of(source: TableSource, view: FeatureView, where: str) -> int:
    """The delay of the source in microseconds. Raises ProjectError if the view's ttl is not longer."""
    if view.ttl and source.delay >= view.ttl:
        raise ProjectError(
            f"feature view {view.name!r} forgets a row after {format_duration(view.ttl)} (ttl), but its rows"
            f" are known only {format_duration(source.delay)} after their time (delay of {source.name})",
            where=where,
            remedy="Make the ttl longer than the delay.",
        )
    return source.delay // _MICROSECOND


def _compile_windowed(
    view: StreamFeatureView, source: TableSource, keys: tuple[str, ...], where: str
) -> WindowedView:
    if source.topic is None:
        raise ProjectError(
            f"windowed view {view.name!r} reads {source.name}, whose rows are not made one by one from events",
            where=where,
            remedy="Read the event's own table, or a @table(rowwise=True) that reads an event.",
        )
    if not keys or source.field_mapping:
        what = "field_mapping" if keys else "no entity"
        raise ProjectError(
            f"windowed view {view.name!r} has {what}, which only as-of views can have",
            where=where,
            remedy="Give the rows the entity's key and the columns their names in a @table(rowwise=True).",
        )
    if source.delay:
        raise ProjectError(
            f"windowed view {view.name!r} reads {source.name} with a delay",
            where=where,
            remedy="Leave it out: events carry the instant from which they are known.",
        )
    if view.timestamp_field != source.timestamp_field:
        raise ProjectError(
            f"windowed view {view.name!r} has timestamp_field={view.timestamp_field!r},"
            f" and its TableSource has {source.timestamp_field!r}",
            where=where,
            remedy="Make them the same.",
        )
    columns: dict[str, Dtype] = {}
    aggregations = []
    for declared in view.aggregations:
        dtype: Dtype = _column(source, declared.column, view.name, where, needed=True)
        columns[declared.column] = dtype
        aggregations.append(_compile_aggregation(view, declared, dtype, where))
    _check_fields(view, aggregations, keys, where)
    return WindowedView(
        name=view.name,
        keys=keys,
        topic=source.topic,
        table=source.name,
        rowwise=source.name if source.rowwise else None,
        time=source.timestamp_field,
        columns=tuple(PlanField(name, dtype) for name, dtype in columns.items()),
        aggregations=tuple(aggregations),
        code=source.code,
    )


def _compile_aggregation(
    view: StreamFeatureView, declared: FeastAggregation, column: Dtype, where: str
) -> Aggregation:
    name = declared.resolved_name(declared.time_window)
    function = parse_function(declared.function, where=where)
    offset = _offset_of(view, name, where)
    window, hop = _compile_window(view, declared, f"{view.name}:{name}", where)
    if window == LIFETIME and offset:
        raise ProjectError(
            f"{view.name}:{name} has an offset, but no time_window",
            where=where,
            remedy=f"Give it a time_window, or remove the tag {_OFFSET}{name}: a lifetime ends now.",
        )
    return Aggregation(
        name=name,
        column=declared.column,
        function=function,
        window=window,
        hop=hop,
        dtype=result_dtype(function, column, where=where),
        offset=offset,
    )


def _compile_window(
    view: StreamFeatureView, declared: FeastAggregation, feature: str, where: str
) -> tuple[int, int]:
    """The window and its hop, microseconds. Without a time_window it is the lifetime of the entity."""
    window = declared.time_window
    if window is None:
        if declared.slide_interval:
            raise ProjectError(
                f"{feature} has a slide_interval, but no time_window",
                where=where,
                remedy="Give it a time_window, or remove the slide_interval: it is over the entity's lifetime.",
            )
        return LIFETIME, LIFETIME
    try:
        hop = hop_of(window, slide=declared.slide_interval, tiling=view.tiling_hop_size)
    except ProjectError as error:
        raise ProjectError(f"{feature}: {error.what}", where=where, remedy=error.remedy) from error
    return window // _MICROSECOND, hop // _MICROSECOND


def _offset_of(view: StreamFeatureView, name: str, where: str) -> int:
    """How long before the moment the window of this feature ends, microseconds: the tag `offset.NAME`."""
    text = view.tags.get(f"{_OFFSET}{name}")
    if text is None:
        return 0
    try:
        offset = parse_duration(text) // _MICROSECOND
    except ValueError as error:
        raise ProjectError(f"tag {_OFFSET}{name} of {view.name!r}: {error}", where=where) from error
    if not 0 < offset < _LONGEST_OFFSET:
        raise ProjectError(
            f"tag {_OFFSET}{name} of {view.name!r} is {text!r}, which is not between 0 and 100 years",
            where=where,
        )
    return offset


def _check_fields(
    view: StreamFeatureView, aggregations: list[Aggregation], keys: tuple[str, ...], where: str
) -> None:
    """Raises ProjectError unless the view's schema has one field for each aggregation, of its dtype."""
    names = [aggregation.name for aggregation in aggregations]
    for tag in view.tags:
        if tag.startswith(_OFFSET) and tag.removeprefix(_OFFSET) not in names:
            raise ProjectError(
                f"tag {tag!r} of {view.name!r} does not end with the name of an aggregation",
                where=where,
                remedy=f"Its aggregations are {', '.join(names)}.",
            )
    duplicates = {name for name in names if names.count(name) > 1}
    if duplicates:
        raise ProjectError(
            f"{view.name!r} has two aggregations with the name {', '.join(sorted(duplicates))}", where=where
        )
    declared = {field.name: field.dtype for field in compile_fields(view.features, where)}
    for aggregation in aggregations:
        if aggregation.name not in declared:
            raise ProjectError(
                f"aggregation {aggregation.name!r} of {view.name!r} is not in its schema",
                where=where,
                remedy=f'Add Field(name="{aggregation.name}", dtype=...).',
            )
        feature = f"{view.name}:{aggregation.name}"
        _check_same_dtype(declared[aggregation.name], aggregation.dtype, feature, where)
    for name in declared:
        if name not in names and name not in keys:  # Feast's registry lists keys among the features
            raise ProjectError(
                f"field {name!r} of {view.name!r} is not the name of an aggregation",
                where=where,
                remedy=f"Its aggregations are {', '.join(names)}.",
            )


def compile_on_demand_view(view: OnDemandFeatureView, where: str, *, registered: bool = False) -> OnDemandView:
    """Compiles an on-demand feature view, in python or pandas mode.

    Args:
        view: the view.
        where: its place, for errors.
        registered: whether it comes from a registry that `apply` wrote, so that its source text already runs
            alone.

    Raises:
        ProjectError: its mode, its writing to the online store or its aggregations are not supported; two
        inputs
            have the same name; or its function cannot run in serving.
    """
    if view.mode not in ("python", "pandas"):
        _not_supported(view, f"mode={view.mode!r}", 'Use mode="python" or mode="pandas".', where)
    if view.write_to_online_store:
        _not_supported(
            view, "write_to_online_store", "Remove it: the value is computed when it is requested.", where
        )
    if view.aggregations:
        _not_supported(view, "aggregations", "Aggregate in a StreamFeatureView, and read that view.", where)
    inputs = [OnDemandInput(field.name) for field in request_fields([view], where)]
    for name, projection in view.source_feature_view_projections.items():
        inputs += [OnDemandInput(field.name, name) for field in projection.features]
    names = [source.name for source in inputs]
    for name in names:
        if names.count(name) > 1:
            raise ProjectError(
                f"on-demand view {view.name!r} has two inputs with the name {name!r}", where=where
            )
    transformation = view.feature_transformation
    function = transformation.udf
    return OnDemandView(
        name=view.name,
        inputs=tuple(inputs),
        features=compile_fields(view.features, where),
        mode="pandas" if view.mode == "pandas" else "row" if view.singleton else "python",
        function=function.__name__,
        source=transformation.udf_string
        if registered
        else serialize_function(function, decorator="on_demand_feature_view"),
    )


def _not_supported(view: OnDemandFeatureView, what: str, remedy: str, where: str) -> None:
    raise ProjectError(f"on-demand view {view.name!r}: {what} is not supported", where=where, remedy=remedy)


def request_fields(views: Iterable[OnDemandFeatureView], where: str) -> tuple[PlanField, ...]:
    """The fields that a request must carry for these views, each name once.

    Raises:
        ProjectError: two views declare a field of the same name with different types.
    """
    fields: dict[str, PlanField] = {}
    for view in views:
        for source in view.source_request_sources.values():
            for field in compile_fields(source.schema, where):
                if "bytes" in field.dtype:
                    raise ProjectError(
                        f"request field {field.name!r} is {field.dtype}, which a request cannot carry",
                        where=where,
                        remedy="Send text, and decode it in the on-demand view.",
                    )
                if fields.setdefault(field.name, field) != field:
                    raise ProjectError(
                        f"request field {field.name!r} is {field.dtype} in {view.name!r}"
                        f" and {fields[field.name].dtype} in another view",
                        where=where,
                    )
    return tuple(fields.values())


def compile_fields(feast_fields: Iterable[Any], where: str) -> tuple[PlanField, ...]:
    """Compiles Feast's fields. Raises ProjectError for a type that features cannot have."""
    fields = []
    for field in feast_fields:
        dtype = dtype_of(field.dtype)
        if dtype is None:
            raise ProjectError(
                f"feature {field.name!r} has the type {field.dtype}, which is not supported",
                where=where,
                remedy="Use Int64, Float64, String, Bool, UnixTimestamp, Bytes, or an Array of one of these.",
            )
        fields.append(PlanField(field.name, dtype))  # type: ignore[arg-type]
    return tuple(fields)


def compile_entity_keys(
    views: Iterable[TakenView],
    entities: Mapping[str, Entity],
    labels: Mapping[str, str] | None,
    place: Callable[[Any], str],
) -> tuple[EntityKey, ...]:
    """Compiles the keys of the views' entities, each name of a key once.

    Args:
        views: the views, each with the projection by which it is taken.
        entities: name → entity.
        labels: column of the labels → its dtype; None if that is not known.
        place: the place of an object, for errors.

    Raises:
        ProjectError: as `_compile_entity_key`.
    """
    views = list(views)
    taken: dict[str, Entity] = {}
    for view, projection in views:
        for name in entity_names(view):
            key = entities[name].join_key
            taken.setdefault(projection.join_key_map.get(key, key), entities[name])
    plain = [view for view, _ in views]
    return tuple(
        _compile_entity_key(entity, key, plain, labels, place(entity)) for key, entity in taken.items()
    )


def _compile_entity_key(
    entity: Entity,
    join_key: str,
    views: Iterable[FeatureView],
    labels: Mapping[str, str] | None,
    where: str,
) -> EntityKey:
    """Compiles a key of an entity. If the entity declares no type, the views or the labels determine it.

    Raises:
        ProjectError: the type is not known, is neither a whole number nor text, or differs between two views.
    """
    dtypes = {}
    for view in views:
        if entity.name in view.entities and isinstance(view.batch_source, TableSource):
            dtype = _key_dtype(entity, view, view.batch_source)
            if dtype is not None:
                dtypes[dtype] = view.name
    if len(dtypes) > 1:
        types = " and ".join(f"{dtype} in {name!r}" for dtype, name in dtypes.items())
        raise ProjectError(f"the key of entity {entity.name!r} is {types}", where=where)
    known = next(iter(dtypes), None) or (labels or {}).get(join_key) or entity.value_type.name
    if known not in ("int64", "string"):
        is_unknown = known == ValueType.UNKNOWN.name
        raise ProjectError(
            f"the type of entity {entity.name!r} is not known: neither it nor a table's schema declares one"
            if is_unknown
            else f"entity {entity.name!r} has the type {known}",
            where=where,
            remedy="A key is a whole number or text: value_type=ValueType.INT64 or ValueType.STRING.",
        )
    return EntityKey(entity.name, join_key, known)  # type: ignore[arg-type]


def _key_dtype(entity: Entity, view: FeatureView, source: TableSource) -> str | None:
    """The dtype of a view's key from the entity, the table or the view's schema; None: none declares it."""
    if entity.value_type != ValueType.UNKNOWN:
        return _KEYS.get(entity.value_type) or str(entity.value_type.name)
    columns = {field.name: dtype_of(field.dtype) for field in view.entity_columns}
    return source.dtype_of(entity.join_key) or columns.get(entity.join_key)


def entity_names(view: FeatureView) -> list[str]:
    """The view's entities; none if all its rows are of one entity."""
    return [name for name in view.entities if name != DUMMY_ENTITY_NAME]


def _keys(
    view: FeatureView, source: TableSource, entities: Mapping[str, Entity], where: str
) -> tuple[str, ...]:
    names = entity_names(view)
    for name in names:
        if name not in entities:
            raise ProjectError(
                f"entity {name!r} of feature view {view.name!r} is not at the top of any module",
                where=where,
                remedy="Bind it to a name there: user = Entity(...).",
            )
        entity = entities[name]
        real = _column(source, entity.join_key, view.name, where)
        dtype = _key_dtype(entity, view, source)
        if real is not None and dtype != real:
            raise ProjectError(
                f"entity {name!r} is {dtype}, but its key {entity.join_key!r} is {real} in {source.name},"
                f" which feature view {view.name!r} reads",
                where=where,
                remedy="Give the entity the value_type of the column: ValueType.INT64 or ValueType.STRING.",
            )
    return tuple(entities[name].join_key for name in names)


def _column(source: TableSource, name: str, view: str, where: str, *, needed: bool = False) -> Any:
    """The declared dtype of a column; None where the table declares nothing."""
    if source.columns is None:
        if needed:
            raise ProjectError(
                f"windowed view {view!r} needs the types of {source.name}'s columns, which it does not declare",
                where=where,
                remedy=f"Give {source.name} a dataframely schema: @table(schema=...).",
            )
        return None
    column = source.column(name)
    if column not in source.columns:
        raise ProjectError(
            f"feature view {view!r} reads the column {column!r}, which {source.name} lacks",
            where=where,
            remedy=f"Columns of {source.name}: {', '.join(source.columns)}.",
        )
    return source.columns[column]


def _check_same_dtype(declared: str, real: str | None, feature: str, where: str) -> None:
    if real is not None and declared != real:
        raise ProjectError(
            f"feature {feature} is declared as {declared}, but it is {real}",
            where=where,
            remedy="Give its Field the type that the values have.",
        )
