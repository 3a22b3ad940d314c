"""The messages between a replica and the process that answers its large requests."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError
from headrace.serving.protocols.port import Response
from headrace.serving.tracing import PredictionSpan

__all__ = [
    "BatchAnswer",
    "BatchFailure",
    "BatchReply",
    "BatchRequest",
    "NotInForce",
    "decode_reply",
    "decode_request",
    "encode",
    "to_failure",
]


class BatchRequest(Struct, frozen=True):
    """A request.

    Attributes:
        path: the path of its route, as the protocol lists it, such as `/predict/{model}`.
        releases: model → the id of its release in force in the replica. A prediction is asked of one model; a
            request for features, of any of them.
        version: the version that the request names.
        max_bytes: the largest record of a prediction.
        sheds_shadows: whether it is not copied to shadows, because so many large requests wait for an answer.
        query, headers, body: as they arrived.
    """

    path: str
    releases: dict[str, str]
    version: str | None
    max_bytes: int
    sheds_shadows: bool
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def scope(self) -> Scope:
        """What a protocol reads of the request beside its body."""
        return {"type": "http", "query_string": self.query, "headers": self.headers}


class BatchAnswer(Struct, frozen=True, tag=True):
    """The response to a request.

    Attributes:
        body, content_type, headers: the response (protocols.port.Response).
        spans: the lookups and model calls, for the replica's trace.
    """

    body: bytes
    content_type: bytes
    headers: dict[str, str] | None
    spans: list[PredictionSpan]

    @property
    def response(self) -> Response:
        """The response."""
        return Response(self.body, self.content_type, self.headers)


class BatchFailure(Struct, frozen=True, tag=True):
    """The error that a request is answered with (http.responses.HttpError)."""

    status: int
    code: str
    message: str
    field: str | None
    more: dict[str, Any]
    headers: dict[str, str]
    spans: list[PredictionSpan]

    @property
    def error(self) -> HttpError:
        """The error to raise."""
        return HttpError(
            self.status, self.code, self.message, field=self.field, more=self.more, headers=self.headers
        )


def to_failure(error: HttpError, spans: list[PredictionSpan]) -> BatchFailure:
    """The failure that has the error."""
    message, field, more = error.message, error.field, error.more
    return BatchFailure(error.status, error.code, message, field, more, error.headers, spans)


class NotInForce(Struct, frozen=True, tag=True):
    """The process does not have the releases that are in force in the replica. It has predicted nothing."""


BatchReply = BatchAnswer | BatchFailure | NotInForce
encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(BatchRequest).decode
decode_reply = msgspec.msgpack.Decoder(BatchReply).decode
