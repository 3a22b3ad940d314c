"""Micro-batches: single requests that arrive together share a lookup, a call of the model and a write."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any, NamedTuple

from headrace.serving.models import ReleasedModel
from headrace.serving.prediction import Prediction
from headrace.serving.predictor import SingleRequest, SpoolingPredictor

__all__ = ["MicroBatcher"]


class _Waiting(NamedTuple):
    """A request that waits for the end of the turn."""

    model: ReleasedModel
    request: SingleRequest
    answer: asyncio.Future[Prediction]


class MicroBatcher:
    """Predicts the single requests of one turn of the event loop together. Only the loop's thread may use it.

    No request waits for another one to arrive: the requests of a turn are those that have arrived already, and
    would be answered one after the other.

    Args:
        predictor: predicts them.
        max_size: how many may be predicted together.
        in_thread: whether a prediction waits for another server, so that the loop must not make it itself.
    """

    def __init__(self, predictor: SpoolingPredictor, max_size: int, *, in_thread: bool) -> None:
        self._predictor, self._max_size, self._in_thread = predictor, max_size, in_thread
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def predict(
        self, model: ReleasedModel, instance: Mapping[str, Any], version: str | None
    ) -> Prediction:
        """The prediction of one instance. Takes and raises the same as SpoolingPredictor.predict."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Prediction] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append(_Waiting(model, SingleRequest(instance, version, copy_context()), answer))
        return await answer

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        groups: dict[int, list[_Waiting]] = {}
        for item in waiting:
            groups.setdefault(id(item.model), []).append(item)
        for group in groups.values():
            for start in range(0, len(group), self._max_size):
                batch = group[start : start + self._max_size]
                if self._in_thread:
                    task = asyncio.create_task(self._predict_in_thread(batch))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                else:
                    _settle(batch, self._predict(batch))

    def _predict(self, batch: list[_Waiting]) -> list[Prediction | Exception]:
        model, requests = batch[0].model, [item.request for item in batch]
        try:
            if len(requests) > 1:
                return self._predictor.predict_together(model, requests)
            (request,) = requests
            return [*request.context.run(self._predictor.predict, model, [request.instance], request.version)]
        except Exception as error:
            return [error] * len(batch)

    async def _predict_in_thread(self, batch: list[_Waiting]) -> None:
        _settle(batch, await asyncio.to_thread(self._predict, batch))


def _settle(batch: list[_Waiting], answers: list[Prediction | Exception]) -> None:
    for item, answer in zip(batch, answers, strict=True):
        if item.answer.done():  # its client has gone
            continue
        if isinstance(answer, Exception):
            item.answer.set_exception(answer)
        else:
            item.answer.set_result(answer)
