"""The port of the HTTP protocols, which each module of this folder implements. It only decodes and encodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError
from headrace.serving.models import Models
from headrace.serving.prediction import Prediction
from headrace.serving.request_schema import InstanceSchema

__all__ = ["DecodedRequest", "HttpProtocol", "PredictRoute", "ReadRoute", "Route"]


class DecodedRequest(NamedTuple):
    """A decoded prediction request.

    Attributes:
        instances: field → value of each instance, as InstanceSchema.to_values returns them.
        encode: encodes the response body from the predictions, in the order of the instances.
    """

    instances: list[dict[str, Any]]
    encode: Callable[[Sequence[Prediction]], bytes]


class PredictRoute(Struct, frozen=True):
    """POST of a prediction request.

    Attributes:
        path: the path, with `{model}` in place of the model's name, such as `/predict/{model}`.
        decode: decodes a request for a model with this schema. It raises RequestError or HttpError.
        instances: what errors call the instances: `instances[1].price`.
    """

    path: str
    decode: Callable[[InstanceSchema, Scope, bytes], DecodedRequest]
    instances: str = "instances"


class ReadRoute(Struct, frozen=True):
    """GET of information about the endpoint.

    Attributes:
        path: the path, with names in braces, such as `/v1/models/{model}`.
        read: makes the response body from the models and the values of the path's names. It raises
            RequestError or
            HttpError.
        content_type: the content type of the response.
    """

    path: str
    read: Callable[[Models, Mapping[str, str]], bytes]
    content_type: bytes = b"application/json"


Route = PredictRoute | ReadRoute


class HttpProtocol(Protocol):
    """One module of this folder."""

    @property
    def ROUTES(self) -> Sequence[Route]:  # noqa: N802 - a module's constant
        """The routes of the protocol."""
        ...

    def encode_error(self, error: HttpError) -> bytes:
        """The JSON body of an error."""
        ...
