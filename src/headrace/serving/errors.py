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
    "OversizedPrediction",
    "RequestError",
    "UnknownField",
    "UnknownModel",
    "UnknownService",
    "UnknownVersion",
    "WrongValue",
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
    """The model itself failed on the request."""

    code = "model_failed"


class ModelTimeout(RequestError):
    """The model itself did not answer the request in time."""

    code = "model_timeout"


class OversizedPrediction(RequestError):
    """The record of the prediction is larger than its topic accepts."""

    code = "too_large"


def unknown_version(model: str, version: str, versions: Sequence[int]) -> UnknownVersion:
    """The error for a request that names a version by which no arm answers."""
    what = f"No arm of model {model!r} answers by version {version!r}."
    return UnknownVersion(what, field="version", details={"versions": list(versions)})
