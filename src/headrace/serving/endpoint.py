"""Endpoint: the HTTP application of one replica. It knows nothing of Ray: any ASGI server runs it.

POST /predict/MODEL    one object, or {"instances": [object, ...]}; ?explain=1 adds the features
GET  /models           which versions answer, by which release
GET  /metrics          Prometheus' text form
GET  /healthz
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from headrace.http.asgi import App, Receive, Scope, Send
from headrace.http.middleware import GuardMiddleware
from headrace.http.responses import HttpError, send_json
from headrace.kernel.errors import Unavailable
from headrace.serving import prediction_log
from headrace.serving.answering import Answering
from headrace.serving.models import Models, Served

__all__ = ["MAX_BODY", "Endpoint"]

_log = logging.getLogger("headrace.serving")
MAX_BODY = 4 << 20  # bytes
_JSON = frozenset({b"application/json"})
_INLINE = 32  # more instances than this are answered in a thread: they would hold up the others
_FOLLOW = 0.5  # seconds between two looks at the releases
_encode = msgspec.json.Encoder().encode


class Endpoint:
    """Answers predictions.

    Args:
        models: what answers.
        spool: the folder that predictions are kept in before they are answered.
        host: the address that the door in front of the replicas listens on: on loopback it admits
            whoever names loopback, elsewhere whoever has the token.
    """

    def __init__(self, models: Models, spool: Path, host: str) -> None:
        self._models = models
        self._answering = Answering(spool)
        self._metrics = self._answering.metrics
        self._bound_predictions()
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="releases", daemon=True)
        self._follower.start()
        self.app: App = GuardMiddleware(self._answer, host, max_body=MAX_BODY, content_types=_JSON)

    def close(self) -> None:
        """Ends the thread that follows the releases, and completes the spool file."""
        self._stop.set()
        self._follower.join()
        self._answering.close()
        self._models.close()

    def _follow(self) -> None:
        while not self._stop.wait(_FOLLOW):
            try:
                self._models.poll()
                self._bound_predictions()
            except Exception as error:  # what is in force stays so, and the next look may do better
                _log.error("the releases cannot be followed: %s", error)

    def _bound_predictions(self) -> None:
        """Learns how large a prediction may be: what nobody can ship is not answered."""
        largest = self._models.largest(prediction_log.TOPIC)
        if largest is not None:
            self._answering.largest = min(largest, prediction_log.LARGEST)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        path, method = scope["path"], scope["method"]
        if path.startswith("/predict/"):
            if method != "POST":
                raise HttpError(405, "method", "Ask with POST.", headers={"Allow": "POST"})
            await self._predict(path.removeprefix("/predict/"), scope, receive, send)
        elif method != "GET":
            raise HttpError(404, "not_found", f"There is nothing at {method} {path}.")
        elif path == "/healthz":
            await send_json(send, 200, _encode({"status": "ok", "models": sorted(self._models.served)}))
        elif path == "/models":
            await send_json(send, 200, _encode(self._described()))
        elif path == "/metrics":
            await _send_text(send, self._metrics.text())
        else:
            raise HttpError(404, "not_found", f"There is nothing at {path}.")

    async def _predict(self, model: str, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        try:
            served = self._served(model)
            requests, several = served.requests.read((await receive())["body"])
            explain = _explain(scope["query_string"])
            if len(requests) > _INLINE:
                answers = await asyncio.to_thread(self._answering.predicted, served, requests, explain)
            else:
                answers = self._answering.predicted(served, requests, explain)
        except HttpError as error:
            self._metrics.answered(error.status, time.perf_counter() - began)
            raise
        except Exception:
            self._metrics.answered(500, time.perf_counter() - began)
            raise
        body = _encode({"predictions": answers} if several else answers[0])
        self._metrics.answered(200, time.perf_counter() - began)
        await send_json(send, 200, body)
        if served.shadows:
            await asyncio.to_thread(self._answering.shadowed, served, requests, [one["id"] for one in answers])

    def _served(self, model: str) -> Served:
        served = self._models.served.get(model)
        if served is None:
            failure = self._models.failed.get(model)
            if failure is not None:
                raise Unavailable(f"no release of model {model!r} could be put in place: {failure.why}")
            raise HttpError(
                404,
                "no_such_model",
                f"No model {model!r} is released here.",
                field="model",
                more={"models": sorted(self._models.served)},
            )
        return served

    def _described(self) -> dict[str, Any]:
        models: dict[str, Any] = {}
        for name, served in sorted(self._models.served.items()):
            fields = served.requests.fields
            models[name] = {"release": served.release, "fields": fields, "customer": served.customer}
        return {"models": models, "failed": self._models.failed}


def _explain(query: bytes) -> bool:
    """Whether the features are asked for too."""
    if query not in (b"", b"explain=0", b"explain=1"):
        raise HttpError(400, "query", "The query may say explain=1.")
    return query == b"explain=1"


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _send_text(send: Send, text: bytes) -> None:
    kind = b"text/plain; version=0.0.4; charset=utf-8"
    headers = [(b"content-type", kind), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})
