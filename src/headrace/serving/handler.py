"""Answers the requests of one replica. Small ones are answered at once, and large ones beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from pathlib import Path

from headrace.http.asgi import Receive, Scope, Send
from headrace.http.responses import HttpError, send_body
from headrace.serving.as_of.lane import AsOfLane
from headrace.serving.as_of.query import AsOf, parse_as_of
from headrace.serving.as_of.worker import Question
from headrace.serving.batches.lane import BatchLane
from headrace.serving.batches.messages import BatchFailure, BatchRequest
from headrace.serving.limit import RequestLimit
from headrace.serving.metrics import Metrics
from headrace.serving.micro_batches import MicroBatcher
from headrace.serving.mlflow_models.served import ServedModel
from headrace.serving.models import Models, ReleasedModel
from headrace.serving.prediction import Prediction
from headrace.serving.predictor import Instances, SpoolingPredictor
from headrace.serving.protocols.port import DecodedRequest, PostRoute, PredictRoute, Response
from headrace.serving.protocols.status import to_response_error
from headrace.serving.shadows import RequestCopy, ShadowQueue
from headrace.serving.tracing import RequestTracer

__all__ = ["RequestHandler"]

_MAX_INLINE = 4096  # bytes of a body; a larger one is answered in a thread: it would delay other requests
_MAX_COPIED = 4  # large requests in progress; while there are more, none is copied to the shadows
_MAX_IN_THREAD = 16_384  # bytes of a body; a larger one is answered in a process of its own


class RequestHandler:
    """Answers requests for predictions, and those for features. Only the event loop may call its coroutines.

    Args:
        models: the models to predict with.
        predictor: predicts by them.
        metrics: counts the answers.
        folder: the folder of the replicas.
        tracer: takes spans of the predictions; None: there are no traces.
    """

    def __init__(
        self,
        models: Models,
        predictor: SpoolingPredictor,
        metrics: Metrics,
        folder: Path,
        tracer: RequestTracer | None,
    ) -> None:
        self._models, self._predictor, self._metrics, self._tracer = models, predictor, metrics, tracer
        self._as_of = AsOfLane(models.settings)
        self._batches = BatchLane(models.settings, sorted(models.selected), folder)
        limits = models.settings.serving
        self._shadows = ShadowQueue(predictor, metrics)
        self._requests = RequestLimit(limits.max_requests, "requests")
        self._large = RequestLimit(limits.max_batches, "large requests")
        self._micro_batcher = None
        if limits.max_batch_size > 1:
            size = limits.max_batch_size
            self._micro_batcher = MicroBatcher(predictor, size, in_thread=models.waits)

    def close(self) -> None:
        """Ends what works beside the replica's requests. They are copied to the shadows first."""
        self._shadows.close()
        self._as_of.close()
        self._batches.close()

    def follow_releases(self) -> None:
        """Makes the process that answers large requests activate the releases too. A thread may call it."""
        self._batches.poll()

    async def predict(
        self, route: PredictRoute, names: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answers a prediction request.

        Raises:
            HttpError: the request cannot be answered.
        """
        started = time.perf_counter()
        try:
            with self._requests.count_one():
                status, response = await self._answer_prediction(route, names, scope, receive)
        except Exception as error:
            failure = to_response_error(error, route.instances)
            self._metrics.count_answer(failure.status, time.perf_counter() - started)
            if failure.status >= 500:
                raise  # the middleware logs the error itself
            raise failure from error
        self._metrics.count_answer(status, time.perf_counter() - started)
        await send_body(send, status, *response)

    async def answer_post(self, route: PostRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request for something else than predictions. Raises HttpError."""
        started = time.perf_counter()
        try:
            with self._requests.count_one():
                response = await self._answer_features(route, scope, receive)
        except Exception as error:
            failure = to_response_error(error, route.instances)
            self._metrics.count_feature_answer(failure.status, time.perf_counter() - started)
            if failure.status >= 500:
                raise
            raise failure from error
        self._metrics.count_feature_answer(200, time.perf_counter() - started)
        await send_body(send, 200, *response)

    def _count_large(self, body: bytes) -> AbstractContextManager[None]:
        """Counts a large request while a block runs, whoever answers it. Raises HttpError 429."""
        return self._large.count_one() if len(body) > _MAX_IN_THREAD else nullcontext()

    async def _answer_prediction(
        self, route: PredictRoute, names: Mapping[str, str], scope: Scope, receive: Receive
    ) -> tuple[int, Response]:
        model = self._models.find(names["model"]) if "model" in names else self._models.find_only()
        body, version = (await receive())["body"], names.get("version")
        query = parse_as_of(scope["query_string"]) if route.takes_as_of else None
        if query is not None:
            return await self._answer_as_of(model, query, body)
        with self._count_large(body):
            if isinstance(model, ServedModel):
                return 200, await self._ask_served(route, model, version, scope, body)
            return 200, await self._answer(route, model, version, scope, body)

    async def _answer_features(self, route: PostRoute, scope: Scope, receive: Receive) -> Response:
        await asyncio.sleep(0)
        body = (await receive())["body"]
        releases = {name: model.release.id for name, model in self._models.released.items()}
        with self._count_large(body):
            response = await self._ask_batches(route.path, releases, None, scope, body)
            if response is None:
                answer = partial(route.answer, self._models, self._metrics, scope, body)
                is_quick = len(body) <= _MAX_INLINE and not self._models.waits
                response = Response(answer() if is_quick else await asyncio.to_thread(answer))
            return response

    async def _answer(
        self, route: PredictRoute, model: ReleasedModel, version: str | None, scope: Scope, body: bytes
    ) -> Response:
        releases = {model.release.model: model.release.id}
        large = await self._ask_batches(route.path, releases, version, scope, body)
        if large is not None:
            return large
        if len(body) <= _MAX_INLINE:
            request = route.decode(model.schema, scope, body)
            predictions = await self._predict_small(model, request.instances, version)
            response = request.encode(predictions)
        else:
            predict = partial(self._predict, route, model, version, scope, body)
            request, predictions, response = await asyncio.to_thread(predict)
        if model.shadows:
            self._shadows.add(RequestCopy(model, request.instances, predictions, copy_context()))
        return response

    async def _predict_small(
        self, model: ReleasedModel, instances: Instances, version: str | None
    ) -> list[Prediction]:
        if self._micro_batcher is not None and len(instances) == 1:
            return [await self._micro_batcher.predict(model, instances[0], version)]
        if self._models.waits:
            return await asyncio.to_thread(self._predictor.predict, model, instances, version)
        await asyncio.sleep(0)  # the requests that have arrived too are counted before one is answered
        return self._predictor.predict(model, instances, version)

    def _predict(
        self, route: PredictRoute, model: ReleasedModel, version: str | None, scope: Scope, body: bytes
    ) -> tuple[DecodedRequest, list[Prediction], Response]:
        """Decodes a request, predicts, and encodes the response."""
        request = route.decode(model.schema, scope, body)
        predictions = self._predictor.predict(model, request.instances, version)
        return request, predictions, request.encode(predictions)

    async def _ask_batches(
        self, path: str, releases: dict[str, str], version: str | None, scope: Scope, body: bytes
    ) -> Response | None:
        """The response of the process that answers large requests; None: the replica must answer itself."""
        if len(body) <= _MAX_IN_THREAD:
            return None
        request = BatchRequest(
            path=path,
            releases=releases,
            version=version,
            max_bytes=self._predictor.max_bytes,
            sheds_shadows=self._large.count > _MAX_COPIED,
            query=scope["query_string"],
            headers=scope["headers"],
            body=body,
        )
        reply = await self._batches.ask(request)
        if reply is None:
            return None
        if self._tracer is not None:
            for span in reply.spans:
                self._tracer.add_prediction(span)
        if isinstance(reply, BatchFailure):
            raise reply.error
        return reply.response

    async def _ask_served(
        self, route: PredictRoute, model: ServedModel, version: str | None, scope: Scope, body: bytes
    ) -> Response:
        """The response of an MLflow model, which runs in a process of its own."""
        model.check_version(version)
        self._predictor.check_room()
        is_quick = len(body) <= _MAX_INLINE
        decode = partial(route.decode, model.schema, scope, body)
        request = decode() if is_quick else await asyncio.to_thread(decode)
        predictions = await model.predict(request.instances)

        def encode() -> Response:
            self._predictor.record(predictions)
            return request.encode(predictions)

        return encode() if is_quick else await asyncio.to_thread(encode)

    async def _answer_as_of(
        self, model: ReleasedModel | ServedModel, query: AsOf, body: bytes
    ) -> tuple[int, Response]:
        """The status and the response for a past moment. Nothing is logged."""
        if isinstance(model, ServedModel):
            what = "An MLflow model reads no features, so its answers are those of now."
            raise HttpError(400, "as_of", what, field="as_of")
        answer = await self._as_of.ask(Question(model.release.model, query, body))
        headers = {"Retry-After": "1"} if answer.status == 503 else None
        return answer.status, Response(answer.body, headers=headers)
