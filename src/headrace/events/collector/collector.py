"""The collector: the HTTP endpoint that receives events.

`POST /events/{topic}` accepts one JSON object, an array of them, or NDJSON, and answers 202 only when every
accepted event is durable on the log. It accepts all events of a request or none, unless the request says
`?partial=accept`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote

import msgspec

from headrace.declare.event import Contract
from headrace.events import formats
from headrace.events.collector.intake import Intake
from headrace.events.collector.requests import IdempotencyKey, IdempotencyStore
from headrace.events.formats.refusals import refusal_of
from headrace.http.asgi import Receive, Scope, Send, find_header
from headrace.http.responses import HttpError, send_body
from headrace.log import Log

__all__ = ["Collector"]

_MOST_WAITING = 64 * 1024 * 1024
_LONGEST_KEY = 256
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])


class Collector:
    """The collector's ASGI application, for use behind http.middleware.GuardMiddleware.

    The middleware checks the token, the host and the size of each request.

    Args:
        contracts: topic → contract, of the topics that accept events. Requests are JSON: for a topic with
            another format the answer is 415.
        log: the log to append to.
        folder: where the Idempotency-Keys of the last day are stored.
        most_waiting: bytes of events that may wait for the log, per topic; a request beyond them is answered
            with 429.
    """

    def __init__(
        self, contracts: Mapping[str, Contract], log: Log, folder: Path, *, most_waiting: int = _MOST_WAITING
    ) -> None:
        json_topics = {topic for topic, contract in contracts.items() if formats.find(contract).plain_json}
        self._other_formats = {
            topic: contract.format for topic, contract in contracts.items() if topic not in json_topics
        }
        contracts = {topic: contract for topic, contract in contracts.items() if topic in json_topics}
        self._requests = {
            topic: IdempotencyStore(folder / f"requests-{contract.table}.db", log)
            for topic, contract in contracts.items()
        }
        self._intakes = {
            topic: Intake(contract, log, self._requests[topic], most_waiting)
            for topic, contract in contracts.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["path"] == "/healthz" and scope["method"] == "GET":
            await send_body(send, 200, b'{"status":"ok"}')
            return
        intake = self._intake(scope)
        content = (await receive())["body"]
        values = _events(scope, content)
        answer = await intake.offer(values, partial=_partial(scope), key=_key(scope, content))
        await send_body(send, 202, answer)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for intake in self._intakes.values():
            intake.close()
        for requests in self._requests.values():
            requests.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _intake(self, scope: Scope) -> Intake:
        path = scope["raw_path"].decode("ascii").split("/")
        if len(path) != 3 or path[:2] != ["", "events"]:
            raise HttpError(404, "not_found", "Post events to /events/{topic}.")
        topic = unquote(path[2])
        if topic in self._other_formats:
            raise HttpError(
                415,
                "format",
                f"The collector accepts JSON, and the events of {topic!r} have the format "
                f"{self._other_formats[topic]!r}: write them to the log with a producer of that format.",
            )
        if topic not in self._intakes:
            known = ", ".join(sorted(self._intakes))
            raise HttpError(
                404, "no_topic", f"No topic {topic!r} has a contract. The topics with a contract are: {known}."
            )
        if scope["method"] != "POST":
            raise HttpError(405, "method", "Send events by POST.", headers={"Allow": "POST"})
        return self._intakes[topic]


def _events(scope: Scope, content: bytes) -> list[bytes]:
    """The events of the body, each as the bytes that were sent."""
    kind = (find_header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        values = [line for line in content.split(b"\n") if line.strip()]
    elif content.lstrip()[:1] == b"[":
        try:
            values = [bytes(raw) for raw in _raw_list.decode(content)]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise HttpError(
                400, "not_json", f"The body is not valid JSON: {refusal_of(error, content).reason}."
            ) from None
        except RecursionError:
            raise HttpError(400, "too_deep", "The body is nested too deeply.") from None
    else:
        values = [content]
    if not values or not content.strip():
        raise HttpError(400, "empty", "The body holds no event.")
    return values


def _partial(scope: Scope) -> bool:
    try:
        query = parse_qs(scope["query_string"].decode("ascii"), strict_parsing=bool(scope["query_string"]))
    except ValueError:
        raise HttpError(400, "query", "The query string is not valid.") from None
    unknown = sorted(set(query) - {"partial"})
    if unknown or query.get("partial", ["refuse"]) not in (["accept"], ["refuse"]):
        raise HttpError(
            400,
            "query",
            "The only query parameter is partial, with the value accept or refuse.",
            field=unknown[0] if unknown else "partial",
        )
    return query.get("partial") == ["accept"]


def _key(scope: Scope, content: bytes) -> IdempotencyKey | None:
    key = find_header(scope, b"idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= _LONGEST_KEY:
        raise HttpError(
            400, "key", f"An Idempotency-Key has 1 to {_LONGEST_KEY} bytes.", field="Idempotency-Key"
        )
    return IdempotencyKey.of(key, scope["query_string"], content)
