"""Feature server: the features of a service for entities, read by the lookup that predictions use."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from headrace.features.online import RowPosition, ServedPosition
from headrace.features.plan import FeaturePlan, OnDemandView
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.time import from_micros, now_micros
from headrace.serving.errors import FeatureFailed
from headrace.serving.metrics import Metrics
from headrace.serving.models import ReleasedService

__all__ = ["EntityFeatures", "ServiceFeatures", "read_features"]

_log = logging.getLogger("headrace.serving")
PRESENT, NULL, NOT_FOUND, UNAVAILABLE = "present", "null", "not_found", "unavailable"


class EntityFeatures(Struct, frozen=True):
    """The features of one entity.

    Attributes:
        values: the value of each feature, of its dtype; None if it is missing. NaN and infinity are missing.
        statuses: `present`; `null`: the value is missing; `not_found`: the view has no row of the entity, or
            none within its ttl; `unavailable`: the online store did not answer, and the model takes that as
            missing.
        event_times: the time of each value, UTC: that of its row, or the moment of the request for a windowed
            or on-demand view. None if there is no row.
        positions: stored view → the position of its values. The values of an on-demand view have the positions
            of the views that it reads.
    """

    values: list[Any]
    statuses: list[str]
    event_times: list[datetime | None]
    positions: dict[str, ServedPosition]


class ServiceFeatures(Struct, frozen=True):
    """The answer of a feature service.

    Attributes:
        service: the service.
        model: the model whose release serves it.
        version: the version of the model.
        plan: the digest of the version's plan.
        at: the moment of the request, UTC.
        features: the names of the features (`view__feature`), in the order of the values.
        rows: the features of each entity, in the order of the request.
    """

    service: str
    model: str
    version: int
    plan: str
    at: datetime
    features: tuple[str, ...]
    rows: list[EntityFeatures]


def read_features(
    service: ReleasedService, entities: Sequence[Mapping[str, Any]], metrics: Metrics
) -> ServiceFeatures:
    """Reads the service's features of each entity at this moment.

    Args:
        service: the service.
        entities: the entity keys and the request fields, as `service.schema` returns them.
        metrics: counts what each view gave and cost.

    Raises:
        FeatureFailed: an on-demand function failed.
        Unavailable: the features cannot be read.
    """
    at, plan = now_micros(), service.plan
    try:
        read = service.lookup.rows(entities, at)
    except OnDemandError as error:
        _log.warning("service %s of model %s version %d: %s", plan.service, plan.model, service.version, error)
        raise FeatureFailed(
            f"The on-demand view {error.where!r} failed; the log of the process says why.",
            instance=0 if len(entities) == 1 else error.row,
            details={"view": error.where},
        ) from error
    metrics.service(plan.service, plan.model, service.version).count(at, read.views, read.positions)
    now, views = from_micros(at), _views_of(plan)
    rows = [
        _describe(values, positions, views, now)
        for values, positions in zip(read.rows, read.positions, strict=True)
    ]
    columns = tuple(feature.column for feature in plan.features)
    return ServiceFeatures(plan.service, plan.model, service.version, plan.digest, now, columns, rows)


def _views_of(plan: FeaturePlan) -> list[tuple[str, bool]]:
    """For each feature of the plan, its view, and whether the online store keeps the view."""
    stored = {view.name: not isinstance(view, OnDemandView) for view in plan.views}
    return [(feature.view, stored[feature.view]) for feature in plan.features]


def _describe(
    values: list[Any], positions: dict[str, ServedPosition], views: Sequence[tuple[str, bool]], now: datetime
) -> EntityFeatures:
    by_view = {name: _status_of(position, now) for name, position in positions.items()}
    statuses, times = [], []
    for value, (view, is_stored) in zip(values, views, strict=True):
        status, time = by_view.get(view, (UNAVAILABLE, None)) if is_stored else (PRESENT, now)
        statuses.append(NULL if value is None and status == PRESENT else status)
        times.append(time)
    return EntityFeatures(values, statuses, times, positions)


def _status_of(position: ServedPosition, now: datetime) -> tuple[str, datetime | None]:
    """The status of a view's values that are not null, and their time."""
    if not isinstance(position, RowPosition):
        return PRESENT, now
    if position.time is None:
        return NOT_FOUND, None
    return PRESENT, from_micros(position.time)
