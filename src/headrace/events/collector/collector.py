"""The collector: the HTTP door through which events enter.

`POST /events/{topic}` takes one JSON object, an array of them, or NDJSON, and answers 202 only when
every accepted event is durable on the log. A request is taken whole or not at all, unless it says
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
    """The ASGI application; it goes behind http.middleware.GuardMiddleware, which sees to token, host and size.

    Args:
        contracts: topic → contract: the topics that take events. The door takes JSON: for a topic with
            another format it answers 415.
        log: where they go.
        folder: where the Idempotency-Keys of the last day are kept.
        most_waiting: bytes of events that may wait for the log, a topic; more is answered 429.
    """

    def __init__(
        self, contracts: Mapping[str, Contract], log: Log, folder: Path, *, most_waiting: int = _MOST_WAITING
    ) -> None:
        accepted = {topic for topic, contract in contracts.items() if formats.find(contract).plain_json}
        self._other_formats = {
            topic: contract.format for topic, contract in contracts.items() if topic not in accepted
        }
        contracts = {topic: contract for topic, contract in contracts.items() if topic in accepted}
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
            raise HttpError(404, "not_found", "Events are posted to /events/{topic}.")
        topic = unquote(path[2])
        if topic in self._other_formats:
            raise HttpError(
                415,
                "format",
                f"The collector accepts JSON, and the events of {topic!r} have the format "
                f"{self._other_formats[topic]!r}: put them on the log with a producer of that format.",
            )
        if topic not in self._intakes:
            known = ", ".join(sorted(self._intakes))
            raise HttpError(
                404, "no_topic", f"There is no topic {topic!r} with a contract; there are: {known}."
            )
        if scope["method"] != "POST":
            raise HttpError(405, "method", "Events are posted.", headers={"Allow": "POST"})
        return self._intakes[topic]


def _events(scope: Scope, content: bytes) -> list[bytes]:
    """The events of the body, each as the bytes it came in."""
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
        raise HttpError(400, "empty", "There is no event in the body.")
    return values


def _partial(scope: Scope) -> bool:
    try:
        query = parse_qs(scope["query_string"].decode("ascii"), strict_parsing=bool(scope["query_string"]))
    except ValueError:
        raise HttpError(400, "query", "The query cannot be read.") from None
    unknown = sorted(set(query) - {"partial"})
    if unknown or query.get("partial", ["refuse"]) not in (["accept"], ["refuse"]):
        raise HttpError(
            400,
            "query",
            "The query may say partial=accept or partial=refuse.",
            field=unknown[0] if unknown else "partial",
        )
    return query.get("partial") == ["accept"]


def _key(scope: Scope, content: bytes) -> IdempotencyKey | None:
    given = find_header(scope, b"idempotency-key")
    if given is None:
        return None
    if not 0 < len(given) <= _LONGEST_KEY:
        raise HttpError(
            400, "key", f"An Idempotency-Key has 1 to {_LONGEST_KEY} bytes.", field="Idempotency-Key"
        )
    return IdempotencyKey.of(given, scope["query_string"], content)
