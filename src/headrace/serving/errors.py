"""Errors of a prediction request. They name the instance and the field, and do not depend on the transport.

RequestError          the request cannot be answered
├── UnknownModel      no release of this model is in force
├── UnknownVersion    no arm of the release answers by this version
├── UnknownService    no released model has features of this service
├── MissingField      a field that the model needs is missing
├── UnknownField      no arm of the model reads this field
├── WrongValue        a field has the wrong type, or its value is out of range
├── MissingFeatures   the model declares that it does not predict without a feature that is missing
├── FeatureFailed     an on-demand function failed
├── ModelFailed       the model itself failed
├── ModelTimeout      the model itself did not answer in time
├── NoHistory         nothing is known of the past moment that the request names
└── OversizedPrediction   the record of the prediction is larger than its topic accepts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from headrace.kernel.errors import CallError

__all__ = [
    "FeatureFailed",
    "MissingFeatures",
    "MissingField",
    "ModelFailed",
    "ModelTimeout",
    "NoHistory",
    "OversizedPrediction",
    "RequestError",
    "UnknownField",
    "UnknownModel",
    "UnknownService",
    "UnknownVersion",
    "WrongValue",
    "missing_features",
    "no_number",
    "unknown_version",
]


class RequestError(CallError):
    """The request cannot be answered.

    Args:
        what: one sentence. It contains no feature value, because clients may read it.
        field: the field of the request that the error concerns.
        instance: the index of the instance that the error concerns; None if the request has only one instance.
        details: further facts for the client, as JSON values.

    Attributes:
        code: one word for programs.
    """

    code: ClassVar[str]

    def __init__(
        self,
        what: str,
        *,
        field: str | None = None,
        instance: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what, where=field)
        self.field = field
        self.instance = instance
        self.details = dict(details or {})

    def __reduce__(self) -> tuple[object, ...]:
        rebuild = partial(type(self), field=self.field, instance=self.instance, details=self.details)
        return (rebuild, (self.what,))


class UnknownModel(RequestError):
    """No release of this model is in force; `details` lists the models that have one."""

    code = "no_such_model"


class UnknownVersion(RequestError):
    """No arm of the release answers by this version; `details` lists the versions that do."""

    code = "no_such_version"


class UnknownService(RequestError):
    """No released model has features of this service; `details` lists the services that can be asked for."""

    code = "no_such_service"


class MissingField(RequestError):
    """A field that the model needs is missing."""

    code = "missing"


class UnknownField(RequestError):
    """No arm of the model reads this field."""

    code = "extra"


class WrongValue(RequestError):
    """A field has the wrong type, or its value is out of range."""

    code = "wrong_value"


class MissingFeatures(RequestError):
    """The model does not predict without a feature that is missing; `details` lists the features."""

    code = "missing_features"


class FeatureFailed(RequestError):
    """An on-demand function failed; `details` names the view."""

    code = "feature_failed"


class ModelFailed(RequestError):
    """The model itself failed on the request, or its answer is not a number."""

    code = "model_failed"


class ModelTimeout(RequestError):
    """The model itself did not answer the request in time."""

    code = "model_timeout"


class NoHistory(RequestError):
    """Nothing is known of the past moment that the request names."""

    code = "no_history"


class OversizedPrediction(RequestError):
    """The record of the prediction is larger than its topic accepts."""

    code = "too_large"


def missing_features(missing: Sequence[Sequence[str]], indexes: Sequence[int] | None) -> MissingFeatures:
    """The error for instances that lack features without which their model does not predict.

    Args:
        missing: for each instance, the features that it lacks; one at least lacks some.
        indexes: the index of each instance in its request; None: they are the whole request.
    """
    rows = [row for row, names in enumerate(missing) if names]
    details: dict[str, Any] = {"missing": sorted({name for names in missing for name in names})}
    what, first = f"The model refuses to answer without {', '.join(missing[rows[0]])}.", None
    if indexes is not None:
        first = indexes[rows[0]]
        what = f"Instance {first}: {what}"
        details["instances"] = [indexes[row] for row in rows]
    return MissingFeatures(what, instance=first, details=details)


def no_number(rows: Sequence[int], indexes: Sequence[int] | None) -> ModelFailed:
    """The error for instances to which the model's answer is NaN or infinite.

    Args:
        rows: which of the instances.
        indexes: the index of each instance in its request; None: they are the whole request.
    """
    if indexes is None:
        return ModelFailed("The model's answer is not a finite number.")
    instances = [indexes[row] for row in rows]
    what = f"Instance {instances[0]}: The model's answer is not a finite number."
    return ModelFailed(what, instance=instances[0], details={"instances": instances})


def unknown_version(model: str, version: str, versions: Sequence[int]) -> UnknownVersion:
    """The error for a request that names a version by which no arm answers."""
    what = f"No arm of model {model!r} answers by version {version!r}."
    return UnknownVersion(what, field="version", details={"versions": list(versions)})
