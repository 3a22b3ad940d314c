"""The port of the HTTP protocols, which each module of this folder implements. It only decodes and encodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import Struct

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError
from headrace.serving.metrics import Metrics
from headrace.serving.models import Models
from headrace.serving.prediction import Prediction
from headrace.serving.request_schema import InstanceSchema

__all__ = [
    "JSON",
    "DecodedRequest",
    "HttpProtocol",
    "PostRoute",
    "PredictRoute",
    "ReadRoute",
    "Response",
    "Route",
    "encode_parallel",
]

JSON = b"application/json"
_encode = msgspec.json.Encoder().encode


class Response(NamedTuple):
    """A response to a prediction request.

    Attributes:
        body: the body.
        content_type: its type.
        headers: further headers.
    """

    body: bytes
    content_type: bytes = JSON
    headers: Mapping[str, str] | None = None


class DecodedRequest(NamedTuple):
    """A decoded prediction request.

    Attributes:
        instances: field → value of each instance, as InstanceSchema.to_values returns them.
        encode: encodes the response from the predictions, in the order of the instances.
    """

    instances: list[dict[str, Any]]
    encode: Callable[[Sequence[Prediction]], Response]


class PredictRoute(Struct, frozen=True):
    """POST of a prediction request.

    Attributes:
        path: the path, with `{model}` in place of the model's name, such as `/predict/{model}`, and perhaps
            `{version}`. Without `{model}` the request is for the only model.
        decode: decodes a request for a model with this schema. It raises RequestError or HttpError.
        instances: what errors call the instances: `instances[1].price`.
        content_types: the types of a body that it takes; empty: a body without a type.
        summary: what the route does, for people.
        body_schema: the JSON schema of a body, made from that of an instance.
        answer_schema: the JSON schema of an answer with status 200.
        takes_as_of: whether a query may ask for a past moment (serving.as_of).
    """

    path: str
    decode: Callable[[InstanceSchema, Scope, bytes], DecodedRequest]
    body_schema: Callable[[dict[str, Any]], dict[str, Any]]
    answer_schema: Mapping[str, Any]
    summary: str
    instances: str = "instances"
    content_types: frozenset[bytes] = frozenset({JSON})
    takes_as_of: bool = False


class ReadRoute(Struct, frozen=True):
    """GET of information about the endpoint.

    Attributes:
        path: the path, with names in braces, such as `/v1/models/{model}`.
        read: makes the response body from the models and the values of the path's names. It raises
            RequestError or HttpError.
        summary: what the route answers, for people.
        content_type: the content type of the response.
        reads_files: whether `read` may wait for the disk, so that it is called in a thread.
    """

    path: str
    read: Callable[[Models, Mapping[str, str]], bytes]
    summary: str
    content_type: bytes = JSON
    reads_files: bool = False


class PostRoute(Struct, frozen=True):
    """POST of a request that is answered from the models without a prediction.

    Attributes:
        path: the path.
        answer: makes the response body from the models, the metrics to count in, the scope and the body. It
            raises RequestError, HttpError or Unavailable.
        body_schema: the JSON schema of a body, made with a function that describes an instance of a schema.
        answer_schema: the JSON schema of an answer with status 200.
        summary: what the route does, for people.
        instances: what errors call the instances: `entities[1].user_id`.
    """

    path: str
    answer: Callable[[Models, Metrics, Scope, bytes], bytes]
    body_schema: Callable[[Models, Callable[[InstanceSchema], dict[str, Any]]], dict[str, Any]]
    answer_schema: Mapping[str, Any]
    summary: str
    instances: str = "instances"


Route = PredictRoute | PostRoute | ReadRoute


class HttpProtocol(Protocol):
    """One module of this folder."""

    @property
    def ROUTES(self) -> Sequence[Route]:  # noqa: N802 - a module's constant
        """The routes of the protocol."""
        ...

    def encode_error(self, error: HttpError) -> bytes:
        """The JSON body of an error."""
        ...


def encode_parallel(predictions: Sequence[Prediction]) -> Response:
    """`{"predictions": [value, ...], "ids": [...], "versions": [...], "missing": [[feature, ...], ...]}`: each
    list has one item for each instance."""
    members = {
        "predictions": [prediction.value for prediction in predictions],
        "ids": [prediction.id for prediction in predictions],
        "versions": [prediction.version for prediction in predictions],
        "missing": [prediction.missing for prediction in predictions],
    }
    return Response(_encode(members))
