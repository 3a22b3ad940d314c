"""Answers large requests: `python -m headrace.serving.batches.worker`, a process beside a replica.

It is a replica without HTTP: it loads the releases in force itself, has a spool file and a slot of the metrics,
and answers one request at a time. It activates new releases when the replica asks it to, with an empty message,
or when a request is for a release that it does not have.
"""

from __future__ import annotations

import logging
import pickle
import sys
import traceback
from collections.abc import Sequence
from contextvars import copy_context
from pathlib import Path

from headrace.config.settings import Settings
from headrace.kernel.errors import HeadraceError
from headrace.kernel.secrets import clean_text
from headrace.serving.batches.messages import (
    BatchAnswer,
    BatchReply,
    BatchRequest,
    NotInForce,
    decode_request,
    encode,
    to_failure,
)
from headrace.serving.frames import write_frame
from headrace.serving.lane import open_messages
from headrace.serving.metrics import Metrics
from headrace.serving.metrics_slot import MetricsSlot
from headrace.serving.models import Models
from headrace.serving.predictor import SpoolingPredictor
from headrace.serving.protocols import PROTOCOLS
from headrace.serving.protocols.port import PostRoute, PredictRoute, Response
from headrace.serving.protocols.status import to_response_error
from headrace.serving.shadows import RequestCopy, ShadowPredictor
from headrace.serving.tracing import PredictionSpans

__all__ = ["BatchWorker"]

_log = logging.getLogger("headrace.serving")
_PRIORITY = 5  # a third of the processor time of a process that competes with it
_ROUTES = {
    route.path: route
    for protocol in PROTOCOLS
    for route in protocol.ROUTES
    if isinstance(route, PredictRoute | PostRoute)
}


class BatchWorker:
    """Answers large requests. Only one thread may use it.

    Args:
        settings: the project's settings.
        names: the models to predict; empty: every model that is released.
        folder: the folder of the replicas.
    """

    def __init__(self, settings: Settings, names: Sequence[str], folder: Path) -> None:
        self._models = Models(settings, names, keeps_releases=False)
        self._slot = MetricsSlot(folder / "metrics")
        self._metrics = Metrics(self._slot.counts)
        self._spans = PredictionSpans()
        self._predictor = SpoolingPredictor(
            folder / "spool", self._metrics, self._spans, settings.serving.spool_limit
        )
        self._shadows = ShadowPredictor(self._predictor, self._metrics)
        self._copied: RequestCopy | None = None

    def poll(self) -> None:
        """Activates the releases that are new."""
        try:
            self._models.poll()
        except HeadraceError as error:  # the replica then answers by the new releases itself
            _log.error("the releases cannot be followed: %s", error)

    def answer(self, request: BatchRequest) -> BatchReply:
        """The reply to a request. What it counts is in the metrics then."""
        if not self._has(request.releases):
            self.poll()
            if not self._has(request.releases):
                return NotInForce()
        route = _ROUTES[request.path]
        reply: BatchReply
        try:
            body, kind, headers = self._answer(route, request)
            reply = BatchAnswer(body, kind, None if headers is None else dict(headers), self._spans.take())
        except Exception as error:
            failure = to_response_error(error, route.instances)
            if failure.status >= 500:
                print(clean_text(traceback.format_exc()), file=sys.stderr)  # noqa: T201
            reply = to_failure(failure, self._spans.take())
        self._slot.write(self._metrics.counts)
        return reply

    def predict_shadows(self) -> None:
        """Predicts the instances of the last request by the shadow arms, if it has any."""
        copy, self._copied = self._copied, None
        if copy is not None:
            self._shadows.predict([copy])
            self._spans.take()  # the request's trace has ended
            self._slot.write(self._metrics.counts)

    def _has(self, releases: dict[str, str]) -> bool:
        released = self._models.released
        return all(name in released and released[name].release.id == id_ for name, id_ in releases.items())

    def _answer(self, route: PredictRoute | PostRoute, request: BatchRequest) -> Response:
        if isinstance(route, PostRoute):
            return Response(route.answer(self._models, self._metrics, request.scope, request.body))
        (name,) = request.releases
        model = self._models.released[name]
        self._predictor.max_bytes = request.max_bytes
        decoded = route.decode(model.schema, request.scope, request.body)
        predictions = self._predictor.predict(model, decoded.instances, request.version)
        if model.shadows and request.sheds_shadows:
            self._metrics.count_shed_shadow()
        elif model.shadows:
            self._copied = RequestCopy(model, decoded.instances, predictions, copy_context())
        return decoded.encode(predictions)


def _main() -> None:
    messages, replies = open_messages(_PRIORITY)
    beginning = next(messages, None)
    if beginning is None:
        return
    worker = BatchWorker(*pickle.loads(beginning))  # noqa: S301 - of the replica, which starts this process
    for message in messages:
        if not message:
            worker.poll()
            write_frame(replies, b"")
            continue
        write_frame(replies, encode(worker.answer(decode_request(message))))
        worker.predict_shadows()


if __name__ == "__main__":
    _main()
