"""Predictor: from decoded instances to predictions. It does not depend on HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import Context
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from headrace.features.online.lookup import ViewRead
from headrace.features.online.store import StoreUnavailable
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.ids import new_ids
from headrace.kernel.time import from_micros, now_micros
from headrace.serving.errors import FeatureFailed, OversizedPrediction, RequestError, missing_features
from headrace.serving.metrics import ArmMetrics, Metrics
from headrace.serving.models import ReleasedModel
from headrace.serving.prediction import Prediction, Value
from headrace.serving.release import Arm
from headrace.serving.servable import Servable
from headrace.serving.spool import DEFAULT_LIMIT, DEFAULT_MAX_BYTES, Spool
from headrace.serving.tracing import PredictionSpan, PredictionTracer

__all__ = ["SEPARATED", "ArmCall", "Instances", "SingleRequest", "SpoolingPredictor", "list_answers"]

_log = logging.getLogger("headrace.serving")
_encode = msgspec.json.Encoder().encode
SEPARATED = 8
"""One turn in so many is answered request by request, so that the latencies of versions can be compared."""
Instances = Sequence[Mapping[str, Any]]
"""Field → value of each instance of a request, as RequestSchema.to_values returns them."""


class SingleRequest(NamedTuple):
    """A request with one instance.

    Attributes:
        instance: the instance.
        version: the version that the request names; None: the entity decides.
        context: the request's context, which has its trace.
    """

    instance: Mapping[str, Any]
    version: str | None
    context: Context


class ArmCall(NamedTuple):
    """A call of an arm for one or more instances.

    Attributes:
        predictions: one for each instance.
        metrics: those of the arm.
        seconds, lookup_seconds: what lookup and model took, and the lookup alone.
        views: what each view gave and cost.
        at: the moment of the lookup, microseconds.
    """

    predictions: list[Prediction]
    metrics: ArmMetrics
    seconds: float
    lookup_seconds: float
    views: Mapping[str, ViewRead]
    at: int

    def add_to_metrics(self, predictions: Sequence[Prediction]) -> None:
        """Counts the call, with those of its predictions that are in the spool."""
        self.metrics.count(
            self.seconds, self.lookup_seconds, [prediction.missing for prediction in predictions]
        )
        self.metrics.views.count(self.at, self.views, [prediction.positions for prediction in predictions])


class _Outputs(NamedTuple):
    """What lookup and model gave to each instance of a call, and how long both took.

    Attributes:
        features, missing, positions, values: of each instance, as a Prediction has them.
        probabilities: of each instance; None where there are no classes.
        latency_ms: milliseconds.
    """

    features: list[dict[str, Any]]
    missing: list[list[str]]
    positions: Sequence[dict[str, Any]]
    values: list[Value]
    probabilities: list[dict[str, float]] | None
    latency_ms: float


class SpoolingPredictor:
    """Predicts by a release in force. Every prediction is in the spool before it is returned.

    Threads may share it.

    Args:
        spool: the folder of the spool.
        metrics: counts predictions and failures.
        tracer: takes the span of each lookup and model; None: there are no traces.
        spool_limit: how many bytes the folder of the spool may have.

    Attributes:
        max_bytes: the largest record of a prediction; a request with a larger one is refused.
    """

    def __init__(
        self,
        spool: Path,
        metrics: Metrics,
        tracer: PredictionTracer | None = None,
        spool_limit: int = DEFAULT_LIMIT,
    ) -> None:
        self._tracer = tracer
        self._spool = Spool(spool, spool_limit)
        self.max_bytes = DEFAULT_MAX_BYTES
        self._metrics = metrics
        self._turns = count()  # of requests that arrived together, while two arms are compared

    def close(self) -> None:
        """Completes the spool file."""
        self._spool.close()

    def predict(
        self, model: ReleasedModel, instances: Instances, version: str | None = None
    ) -> list[Prediction]:
        """Predicts each instance by the arm that its entity belongs to.

        Args:
            model: the release in force.
            instances: the instances.
            version: the version that the request names; None: the entity decides.

        Returns:
            The predictions in the order of the instances. Every one is in the spool.

        Raises:
            UnknownVersion: no arm answers by the version.
            MissingFeatures: the model does not predict without a feature that is missing.
            FeatureFailed: an on-demand function failed.
            ModelFailed: the model's answer is not a finite number.
            OversizedPrediction: the record of a prediction is larger than `max_bytes`.
            Unavailable: the features cannot be read, or the spool cannot be written.
        """
        self.check_room()
        if version is not None:
            arm, servable = model.find_arm_of_version(version)
            indexes = None if len(instances) == 1 else range(len(instances))
            call = self.predict_by_arm(model, arm, servable, instances, indexes)
        elif len(instances) == 1:
            call = self.predict_by_arm(model, *model.find_arm(instances[0]), instances, None)
        else:
            return self._predict_arms(model, instances)
        return self._complete(call)

    def predict_together(
        self, model: ReleasedModel, requests: Sequence[SingleRequest]
    ) -> list[Prediction | Exception]:
        """Predicts requests with one instance each. Those of one arm share a lookup and a call of the model.

        How long a shared call takes depends on how many requests it answers, and that on the arm's share of the
        traffic. So while two arms are compared, one turn in eight is answered request by request.

        Args:
            model: the release in force.
            requests: the requests.

        Returns:
            For each request what `predict` would return or raise. A request that fails does not fail others.
        """
        answers: list[Prediction | Exception] = [Unavailable("it was not answered")] * len(requests)
        shared = len(requests) > 1 and not (model.is_compared and next(self._turns) % SEPARATED == 0)
        groups: dict[str | int, tuple[Arm, Servable, list[int]]] = {}
        for index, request in enumerate(requests):
            try:
                self.check_room()
                if request.version is None:
                    arm, servable = model.find_arm(request.instance)
                else:
                    arm, servable = model.find_arm_of_version(request.version)
            except HeadraceError as error:
                answers[index] = error
            else:
                groups.setdefault(arm.name if shared else index, (arm, servable, []))[2].append(index)
        calls: list[ArmCall] = []
        for arm, servable, indexes in groups.values():
            outcomes = self.predict_each_by_arm(
                model, arm, servable, [requests[index] for index in indexes], shared
            )
            calls += [outcome for outcome in outcomes if isinstance(outcome, ArmCall)]
            for index, answer in zip(indexes, list_answers(outcomes), strict=True):
                answers[index] = answer
        self.complete_together(calls, answers)
        return answers

    def predict_each_by_arm(
        self,
        model: ReleasedModel,
        arm: Arm,
        servable: Servable,
        requests: Sequence[SingleRequest],
        shared: bool,
        shadow_of: Sequence[Prediction] | None = None,
    ) -> list[ArmCall | Exception]:
        """One call for all requests. If it fails, the call of each request, or its error.

        Args:
            shadow_of: for a shadow arm, the prediction that each client received.
        """
        if len(requests) > 1:
            instances, contexts = [r.instance for r in requests], [r.context for r in requests]
            indexes, at, predict = [0] * len(requests), now_micros(), self._predict_by_servable
            try:
                return [predict(model, arm, servable, instances, indexes, shadow_of, at, contexts, shared=True)]
            except StoreUnavailable as error:  # of none of them in particular: alone, each would wait again
                metrics = self._metrics.arm(model.release.model, arm.version, arm.name)
                metrics.count_errors(_code_of(error), len(requests))
                return [error] * len(requests)
            except Exception as error:
                _log.info("%d requests are answered one by one: %s", len(requests), type(error).__name__)
        try_arm = partial(self.try_by_arm, model, arm, servable, shared=shared)
        return [
            try_arm([request.instance], request.context, shadow_of and [shadow_of[index]])
            for index, request in enumerate(requests)
        ]

    def try_by_arm(
        self,
        model: ReleasedModel,
        arm: Arm,
        servable: Servable,
        instances: Instances,
        context: Context,
        shadow_of: Sequence[Prediction] | None = None,
        shared: bool = False,
    ) -> ArmCall | Exception:
        """The call of one request, as `predict_by_arm` in the request's context; or its error.

        The error may be of any kind: also one of the model's library, such as torch's RuntimeError.
        """
        predict = self.predict_by_arm
        try:
            return context.run(predict, model, arm, servable, instances, None, shadow_of, shared)
        except Exception as error:
            return error

    def check_room(self) -> None:
        """Checks that the spool has room. Raises Unavailable."""
        try:
            self._spool.check_room()
        except OSError as error:
            self._metrics.count_full_spool()
            raise Unavailable(
                f"the predictions that wait for the log fill the spool: {error.strerror}"
            ) from error

    def record(self, predictions: Sequence[Prediction]) -> None:
        """Counts predictions that another part made, and appends them to the spool.

        Raises:
            OversizedPrediction: the record of a prediction is larger than `max_bytes`.
            Unavailable: the spool cannot be written.
        """
        self._append_to_spool(predictions)
        if predictions:
            first = predictions[0]  # they were made together
            metrics = self._metrics.arm(first.model, first.version, first.arm)
            metrics.count(first.latency_ms / 1_000, None, [()] * len(predictions))

    def _predict_arms(self, model: ReleasedModel, instances: Instances) -> list[Prediction]:
        """Groups the instances by their arms, and predicts each group at once. All are spooled, or none is."""
        groups: dict[str, tuple[Arm, Servable, list[int]]] = {}
        for index, instance in enumerate(instances):
            arm, servable = model.find_arm(instance)
            groups.setdefault(arm.name, (arm, servable, []))[2].append(index)
        by_index: dict[int, Prediction] = {}
        calls = []
        for arm, servable, indexes in groups.values():
            group = [instances[index] for index in indexes]
            calls.append(self.predict_by_arm(model, arm, servable, group, indexes))
            by_index.update(zip(indexes, calls[-1].predictions, strict=True))
        predictions = [by_index[index] for index in range(len(instances))]
        self._append_to_spool(predictions)
        for call in calls:
            call.add_to_metrics(call.predictions)
        return predictions

    def predict_by_arm(
        self,
        model: ReleasedModel,
        arm: Arm,
        servable: Servable,
        instances: Instances,
        indexes: Sequence[int] | None,
        shadow_of: Sequence[Prediction] | None = None,
        shared: bool = False,
    ) -> ArmCall:
        """Predicts instances by one arm. Errors are counted and logged; the predictions not yet.

        Args:
            indexes: the index of each instance in the request; None if they are the whole request.
            shadow_of: for a shadow arm, the predictions that were sent to the client.
            shared: see Prediction.
        """
        started = time.perf_counter()
        at = now_micros()
        try:
            return self._predict_by_servable(
                model, arm, servable, instances, indexes, shadow_of, at, shared=shared
            )
        except Exception as error:
            metrics = self._metrics.arm(model.release.model, arm.version, arm.name)
            metrics.count_errors(_code_of(error), len(instances))
            # All arms use the store: that it is unavailable says nothing about this one.
            if shadow_of is None and not isinstance(error, Unavailable):
                milliseconds = (time.perf_counter() - started) * 1_000
                failures = _make_failures(model, arm, servable, instances, indexes, at, milliseconds, error)
                self._append_to_spool(failures)
            raise

    def _predict_by_servable(
        self,
        model: ReleasedModel,
        arm: Arm,
        servable: Servable,
        instances: Instances,
        indexes: Sequence[int] | None,
        shadow_of: Sequence[Prediction] | None,
        at: int,
        contexts: Sequence[Context] | None = None,
        *,
        shared: bool = False,
    ) -> ArmCall:
        """Predicts instances by one arm, as of `at`.

        Args:
            contexts: that of each request, if each instance is a request; None: they are one request.
        """
        started = time.perf_counter()
        try:
            answers = servable.lookup.features(instances, at)
        except OnDemandError as error:
            _log.warning("model %s version %d: %s", model.release.model, arm.version, error)
            raise _feature_failed(error, indexes) from error
        lookup_seconds = time.perf_counter() - started
        if servable.plan.missing == "refuse" and any(answers.missing):
            raise missing_features(answers.missing, indexes)
        predict = servable.predict if contexts is None else servable.predict_each
        values, probabilities = predict(answers.matrix, indexes)
        seconds = time.perf_counter() - started
        name = model.release.model
        if self._tracer is not None:
            _trace(self._tracer, seconds, lookup_seconds, name, arm, len(instances), contexts)
        features = [dict(zip(servable.columns, row, strict=True)) for row in answers.values]
        outputs = _Outputs(features, answers.missing, answers.positions, values, probabilities, seconds * 1_000)
        predictions = _make_predictions(
            model, arm, servable, instances, indexes, at, outputs, shadow_of, shared=shared
        )
        metrics = self._metrics.arm(name, arm.version, arm.name)
        return ArmCall(predictions, metrics, seconds, lookup_seconds, answers.views, at)

    def _complete(self, call: ArmCall) -> list[Prediction]:
        """Appends the predictions of a call to the spool, and counts them."""
        self._append_to_spool(call.predictions)
        call.add_to_metrics(call.predictions)
        return call.predictions

    def _append_to_spool(self, predictions: Sequence[Prediction]) -> None:
        _append_records(self._spool, [_encode_record(prediction, self.max_bytes) for prediction in predictions])

    def complete_together(self, calls: Sequence[ArmCall], answers: list[Prediction | Exception]) -> None:
        """Appends the predictions among the answers to the spool, in one write, and counts those of each call.

        The error of a prediction that is not in the spool takes its place among the answers.
        """
        records = _encode_each(answers, self.max_bytes)
        try:
            _append_records(self._spool, list(records.values()))
        except Unavailable as error:
            answers[:] = [error if isinstance(answer, Prediction) else answer for answer in answers]
            return
        for call in calls:
            spooled = [prediction for prediction in call.predictions if prediction.id in records]
            if spooled:
                call.add_to_metrics(spooled)


def list_answers(outcomes: Sequence[ArmCall | Exception]) -> Iterator[Prediction | Exception]:
    """The predictions of the calls, and the errors between them."""
    for outcome in outcomes:
        if isinstance(outcome, ArmCall):
            yield from outcome.predictions
        else:
            yield outcome


def _encode_record(prediction: Prediction, max_bytes: int) -> bytes:
    """The prediction's record. Raises OversizedPrediction if it has more bytes."""
    record = _encode(prediction)
    if len(record) > max_bytes:
        raise OversizedPrediction(
            f"The prediction's record, with the request in it, would have {len(record):,} bytes;"
            f" the limit is {max_bytes:,}.",
            details={"instance": prediction.instance},
        )
    return record


def _encode_each(answers: list[Prediction | Exception], max_bytes: int) -> dict[str, bytes]:
    """Prediction id → record. In the place of a prediction whose record is too large is the error."""
    records = {}
    for index, answer in enumerate(answers):
        if isinstance(answer, Prediction):
            try:
                records[answer.id] = _encode_record(answer, max_bytes)
            except OversizedPrediction as error:
                answers[index] = error
    return records


def _append_records(spool: Spool, records: Sequence[bytes]) -> None:
    try:
        spool.append(*records)
    except OSError as error:  # a prediction that cannot be traced must not be returned
        raise Unavailable(f"the prediction cannot be written to the spool: {error.strerror}") from error


def _trace(
    tracer: PredictionTracer,
    seconds: float,
    lookup_seconds: float,
    model: str,
    arm: Arm,
    rows: int,
    contexts: Sequence[Context] | None,
) -> None:
    """Adds the span of a call that ends now to the trace of each request that it answers."""
    span = PredictionSpan(seconds, lookup_seconds, model, arm.version, arm.name, rows, time.time_ns())
    tracer.add_prediction(span, contexts)


def _make_predictions(
    model: ReleasedModel,
    arm: Arm,
    servable: Servable,
    instances: Instances,
    indexes: Sequence[int] | None,
    at: int,
    outputs: _Outputs,
    shadow_of: Sequence[Prediction] | None,
    *,
    shared: bool,
) -> list[Prediction]:
    moment, entities = from_micros(at), model.entities
    return [
        Prediction(
            id=id_,
            model=model.release.model,
            version=arm.version,
            plan=servable.plan.digest,
            arm=arm.name,
            shadow=arm.shadow,
            at=moment,
            instance=row if indexes is None else indexes[row],
            entity={key: instance[key] for key in instance if key in entities},
            request={key: instance[key] for key in instance if key not in entities},
            features=outputs.features[row],
            value=outputs.values[row],
            latency_ms=outputs.latency_ms,
            missing=outputs.missing[row],
            positions=outputs.positions[row],
            release=model.release.id,
            shadow_of=None if shadow_of is None else shadow_of[row].id,
            probabilities=None if outputs.probabilities is None else outputs.probabilities[row],
            shared=shared,
        )
        for row, (id_, instance) in enumerate(zip(new_ids(len(instances)), instances, strict=True))
    ]


def _make_failures(
    model: ReleasedModel,
    arm: Arm,
    servable: Servable,
    instances: Instances,
    indexes: Sequence[int] | None,
    at: int,
    latency_ms: float,
    error: Exception,
) -> list[Prediction]:
    """The records of instances that an arm failed to answer, so that arms can be compared by their errors.

    The others of a call are in none of them: how many there are depends on the arm's share of the instances.
    """
    code, causes, count = _code_of(error), _find_causes(error), len(instances)
    nothing = _Outputs([{}] * count, [[]] * count, [{}] * count, [None] * count, None, latency_ms)
    failures = _make_predictions(model, arm, servable, instances, indexes, at, nothing, None, shared=False)
    return [
        msgspec.structs.replace(failure, error=code)
        for failure in failures
        if causes is None or failure.instance in causes
    ]


def _find_causes(error: Exception) -> Sequence[int] | None:
    """The instances of the request that the error names as its cause; None: it names none."""
    if not isinstance(error, RequestError) or error.instance is None:
        return None
    instances: Sequence[int] = error.details.get("instances", [error.instance])
    return instances


def _code_of(error: Exception) -> str:
    if isinstance(error, Unavailable):
        return "unavailable"
    return error.code if isinstance(error, RequestError) else "internal"


def _feature_failed(error: OnDemandError, indexes: Sequence[int] | None) -> FeatureFailed:
    """The error for the client, who may learn the view and the instance but no value."""
    what, instance = f"The on-demand view {error.where!r} failed; the log of the process says why.", None
    if indexes is not None and error.row is not None:
        instance = indexes[error.row]
        what = f"Instance {instance}: {what}"
    return FeatureFailed(what, instance=instance, details={"view": error.where})
