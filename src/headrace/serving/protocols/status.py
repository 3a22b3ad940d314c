"""The HTTP status of each error of a prediction request: the only place that maps them."""

from __future__ import annotations

from headrace.http.responses import HttpError, to_http_error
from headrace.serving.errors import (
    ModelTimeout,
    OversizedPrediction,
    RequestError,
    UnknownModel,
    UnknownService,
    UnknownVersion,
)

__all__ = ["describe_error", "to_response_error"]

_STATUS: dict[type[RequestError], int] = {
    UnknownModel: 404,
    UnknownService: 404,
    UnknownVersion: 404,
    OversizedPrediction: 413,
    ModelTimeout: 504,
}
_UNPROCESSABLE = 422


def to_response_error(error: Exception, instances: str = "instances") -> HttpError:
    """The HTTP error for an error of decoding or predicting. If the request has several instances, its `field`
    names the instance: `instances[1].price`, or `instances[1]`."""
    if not isinstance(error, RequestError):
        return to_http_error(error)
    field = error.field
    if error.instance is not None:
        instance = f"{instances}[{error.instance}]"
        dot = "" if field is None or field.startswith("[") else "."
        field = f"{instance}{dot}{field or ''}"
    status = _STATUS.get(type(error), _UNPROCESSABLE)
    return HttpError(status, error.code, error.what, field=field, more=error.details)


def describe_error(error: HttpError) -> str:
    """The error as one text that begins with the field, for protocols whose errors are a text."""
    names_field = error.field is not None and error.status != 404  # the path names a model that is not there
    return f"{error.field}: {error.message}" if names_field else error.message
