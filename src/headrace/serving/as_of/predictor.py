"""Predicts as of a past moment, with the features as they were known then.

A request that was logged at the moment has the features of the log: what serving knew, to the microsecond, also
depends on how far its online store was. The features of any other request are joined, as for a training set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import polars as pl
from msgspec import Struct

from headrace import lake as lakes
from headrace import log as logs
from headrace import registry
from headrace.config.settings import Settings
from headrace.features.plan import FeaturePlan, decode_plan
from headrace.features.values.matrix import Matrix
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.errors import ProjectError
from headrace.serving.as_of.history import History
from headrace.serving.as_of.query import AsOf
from headrace.serving.as_of.replay import (
    LoggedRequests,
    features_as_known,
    find_answering_release,
    read_requests_at,
)
from headrace.serving.errors import FeatureFailed, NoHistory, WrongValue, missing_features, no_number
from headrace.serving.prediction import Value
from headrace.serving.protocols.instances import decode_instance, decode_instances, has_instances
from headrace.serving.release import Release, ReleaseFollower
from headrace.serving.request_schema import RequestSchema
from headrace.serving.servable import decode_answers, find_no_numbers
from headrace.serving.split import TrafficSplit, find_split_key, split_value
from headrace.training.files import MODEL, PLAN
from headrace.training.trainers.folder import Predictor, load_model

__all__ = ["AsOfPredictor", "PastPrediction"]

_ACTIVATION = timedelta(seconds=10)  # in which every replica usually activates a release
_VERSIONS = 8  # versions that stay loaded
_NO_PLAN = FeaturePlan("", (), (), ())  # served nothing to a request that was not logged
_NOT_LOGGED = 0  # in place of the version that answered
_encode_fields = msgspec.json.Encoder(order="sorted").encode


class PastPrediction(Struct, frozen=True):
    """The answer to one instance.

    Attributes:
        model, version: the model, and the version that answers.
        arm: the release's arm that answered then; None if the request names the version.
        as_of: the moment.
        logged: the id of the logged prediction whose features these are; None: the features were joined.
        value, probabilities, missing: as those of a prediction (serving.prediction).
        features: feature (`view__feature`) → value as the model saw it; null if missing.
    """

    model: str
    version: int
    arm: str | None
    as_of: datetime
    logged: str | None
    value: Value
    probabilities: dict[str, float] | None
    missing: list[str]
    features: dict[str, Any]


class _Version(NamedTuple):
    """A version that answers."""

    plan: FeaturePlan
    predictor: Predictor
    matrix: Matrix


class _Place(NamedTuple):
    """A request in the log: those that were predicted together, and its row among them."""

    group: LoggedRequests
    row: int


class _Call(NamedTuple):
    """Instances that one arm answers together.

    Attributes:
        version, arm: who answers.
        requests: the requests that the model predicts together.
        members: index of an instance → its index among the requests.
    """

    version: int
    arm: str | None
    requests: LoggedRequests
    members: dict[int, int]


class AsOfPredictor:
    """Predicts as of past moments. Only one thread may use it.

    Args:
        settings: the project's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._lake, self._registry = lakes.open(settings), registry.open(settings)
        self._log = logs.open(settings.log.url)
        self._history = History(self._lake, self._log)
        self._follower = ReleaseFollower(self._log)
        self._find_version = lru_cache(_VERSIONS)(self._load_version)

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def answer(self, model: str, query: AsOf, body: bytes) -> bytes:
        """The response to a request in our own protocol: an object, or `{"predictions": [object, ...]}`.

        Raises:
            HttpError, RequestError: the body, an instance or the moment cannot be answered.
            Unavailable: the events until the moment are not ingested yet.
            CallError: the version does not exist.
            Refused: its bundle was changed.
        """
        release = self._find_release(model, query)
        schema = self._make_schema(model, release, query.version)
        several = has_instances(body)
        instances = decode_instances(schema, body) if several else decode_instance(schema, body)
        predictions = self._predict(model, release, query, instances, schema)
        return msgspec.json.encode({"predictions": predictions} if several else predictions[0])

    def _predict(
        self,
        model: str,
        release: Release | None,
        query: AsOf,
        instances: Sequence[dict[str, Any]],
        schema: RequestSchema,
    ) -> list[PastPrediction]:
        self._history.check_log(query.moment)
        logged = _find_places(read_requests_at(self._lake, model, query.moment))
        places = [logged.get(_encode_fields(instance)) for instance in instances]
        for index, (instance, place) in enumerate(zip(instances, places, strict=True)):
            given = instance.keys() & schema.features.keys()
            if place is None and given:
                raise WrongValue(
                    "Only a request that was logged at this moment can give features itself.",
                    field=min(given),
                    instance=index if len(instances) > 1 else None,
                )
        if release is not None and query.version is None and None in places:
            self._check_activated(release, query.moment)
        predictions: dict[int, PastPrediction] = {}
        for call in self._divide(release, query, instances, places):
            predictions |= self._answer_call(model, query.moment, call, len(instances))
        return [predictions[index] for index in range(len(instances))]

    def _find_release(self, model: str, query: AsOf) -> Release | None:
        """The release that was in force; None if there was none and the query names the version."""
        self._follower.poll()
        releases = self._follower.histories.get(model, [])
        past = [release for release in releases if release.at <= query.moment]
        if past or query.version is not None:
            return past[-1] if past else None
        first = f"it was first at {releases[0].at.isoformat()}" if releases else "it never was"
        raise NoHistory(
            f"Model {model!r} was not released at {query.moment.isoformat()}; {first}. Name the version that is"
            " to answer: &version=1.",
            field="as_of",
        )

    def _check_activated(self, release: Release, moment: datetime) -> None:
        """Raises NoHistory if the log shows that no replica had activated the release at the moment."""
        answering = find_answering_release(
            self._lake, release.model, release.at + _ACTIVATION, moment, release.id
        )
        if answering is not None:
            raise NoHistory(
                f"Release {release.id} was recorded before {moment.isoformat()}, but no request was answered by"
                f" it; the last one was answered by version {answering[1]}, of release {answering[0]}. Name the"
                f" version that is to answer: &version={answering[1]}.",
                field="as_of",
            )

    def _load_version(self, model: str, version: int) -> _Version:
        bundle = self._registry.bundle(model, version)
        plan, predictor = decode_plan((bundle / PLAN).read_bytes()), load_model(bundle / MODEL)
        return _Version(plan, predictor, Matrix(plan, predictor.meta.encoding))

    def _plans_of(self, release: Release, *, shadow: bool) -> list[FeaturePlan]:
        arms = [arm for arm in release.arms if arm.shadow is shadow]
        return [self._find_version(release.model, arm.version).plan for arm in arms]

    def _make_schema(self, model: str, release: Release | None, version: int | None) -> RequestSchema:
        """The fields of a request then. Of a named version it must have the fields, and may have the others."""
        answering = [] if release is None else self._plans_of(release, shadow=False)
        shadows = [] if release is None else self._plans_of(release, shadow=True)
        if version is None:
            return RequestSchema(answering, shadows)
        return RequestSchema([self._find_version(model, version).plan], [*answering, *shadows])

    def _divide(
        self,
        release: Release | None,
        query: AsOf,
        instances: Sequence[dict[str, Any]],
        places: Sequence[_Place | None],
    ) -> list[_Call]:
        """The instances by who answers them. Logged ones are predicted with those that they were predicted
        with: a library may add up a batch in another order than a few rows."""
        calls: dict[tuple[object, ...], _Call] = {}
        joined: dict[tuple[int, str | None], list[int]] = {}
        for index, (instance, place) in enumerate(zip(instances, places, strict=True)):
            if place is None:
                joined.setdefault(self._find_arm(release, query, instance), []).append(index)
                continue
            first = place.group.rows.row(0, named=True)
            version, arm = (first["version"], first["arm"]) if query.version is None else (query.version, None)
            call = calls.setdefault((id(place.group), version), _Call(version, arm, place.group, {}))
            call.members[index] = place.row
        for (version, arm), indexes in joined.items():
            requests = _make_requests([instances[index] for index in indexes], query.moment)
            members = {index: row for row, index in enumerate(indexes)}
            calls[version, arm] = _Call(version, arm, requests, members)
        return list(calls.values())

    def _find_arm(
        self, release: Release | None, query: AsOf, instance: Mapping[str, Any]
    ) -> tuple[int, str | None]:
        """The version that answers an instance that was not logged, and its arm."""
        if query.version is not None:
            return query.version, None
        assert release is not None  # _find_release raises without one
        arms = [arm for arm in release.arms if not arm.shadow]
        key = find_split_key(self._plans_of(release, shadow=False))
        arm = arms[TrafficSplit(release.model, arms).index(split_value(instance, key))]
        return arm.version, arm.name

    def _answer_call(self, model: str, moment: datetime, call: _Call, count: int) -> dict[int, PastPrediction]:
        plan, predictor, matrix = self._find_version(model, call.version)
        logged = call.requests
        plans = {
            version: _NO_PLAN if version == _NOT_LOGGED else self._find_version(model, version).plan
            for version in logged.rows["version"].unique().to_list()
        }
        single, read = count == 1, self._history.reader(plan, logged.fields, moment)
        try:
            frame, reasons = features_as_known(logged, plan, plans, read)
        except OnDemandError as error:  # it fails on every row
            raise FeatureFailed(f"The on-demand view {error.where!r} fails.") from error
        except ProjectError as error:  # the table was made by other code since the version was trained
            raise NoHistory(
                f"Version {call.version} cannot be asked for {moment.isoformat()}: {error.what}. Name a version"
                " whose columns the tables have.",
                field="version",
            ) from error
        for index, row in call.members.items():
            if (reason := reasons[row]) is not None:
                what = f"It {reason}." if reason.startswith("lacks") else f"The {reason}."
                raise FeatureFailed(what, instance=None if single else index)
        if logged.rows["version"][0] == _NOT_LOGGED:
            self._history.check_begins(plan, frame, moment)
        rows = matrix.of_frame(frame)
        missing = matrix.missing(rows)
        lacking = [missing[row] for row in call.members.values()]
        if plan.missing == "refuse" and any(lacking):
            raise missing_features(lacking, None if single else list(call.members))
        text = {f.column: frame[f.column].to_list() for f in plan.features if f.dtype == "string"}
        features = matrix.values(rows, text)
        outputs = predictor.predict(rows.matrix)
        if no_numbers := find_no_numbers(outputs[[*call.members.values()]]):
            raise no_number(no_numbers, None if single else list(call.members))
        values, probabilities = decode_answers(predictor, outputs)
        ids = logged.rows["id"]
        return {
            index: PastPrediction(
                model=model,
                version=call.version,
                arm=call.arm,
                as_of=moment,
                logged=ids[row],
                value=values[row],
                probabilities=None if probabilities is None else probabilities[row],
                missing=missing[row],
                features=dict(zip(matrix.columns, features[row], strict=True)),
            )
            for index, row in call.members.items()
        }


def _find_places(groups: Sequence[LoggedRequests]) -> dict[bytes, _Place]:
    """Encoded fields of a request → its place in the log."""
    return {
        _encode_fields(fields): _Place(group, index)
        for group in groups
        for index, fields in enumerate(group.fields)
    }


def _make_requests(instances: Sequence[dict[str, Any]], moment: datetime) -> LoggedRequests:
    """Requests that were not logged, in the form of those that were."""
    count = len(instances)
    rows = pl.DataFrame(
        {
            "id": pl.Series([None] * count, dtype=pl.String),
            "version": [_NOT_LOGGED] * count,
            "at": pl.Series([moment] * count, dtype=pl.Datetime("us", "UTC")),
            "missing": pl.Series([[]] * count, dtype=pl.List(pl.String)),
        }
    )
    fields: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(instances))
    return LoggedRequests(rows, fields, [{} for _ in instances])
