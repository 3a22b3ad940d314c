"""Batches: answers the requests that wait for a model by one call of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define

from headrace.kernel.errors import HeadraceError
from headrace.serving.mlflow_models.process import Columns

__all__ = ["Batches"]


@define(eq=False)
class _Request:
    """A request that waits.

    Attributes:
        columns: its columns.
        answer: the answer to each of its rows.
    """

    columns: Columns
    answer: asyncio.Future[list[Any]]

    @property
    def size(self) -> int:
        """Its number of rows."""
        return len(next(iter(self.columns.values()), ()))


class Batches:
    """Asks a model for one or several requests at once: for those that arrive while it works.

    A request never waits for others to come: a model that is idle is asked at once.

    Args:
        ask: asks the model for its answer to each row.

    Attributes:
        max_size: the most requests of one call.
    """

    def __init__(self, ask: Callable[[Columns], Awaitable[list[Any]]]) -> None:
        self._ask = ask
        self.max_size = 1
        self._waiting: list[_Request] = []
        self._worker: asyncio.Task[None] | None = None

    async def predict(self, columns: Columns) -> list[Any]:
        """The model's answer to each row. Raises like `ask`."""
        request = _Request(columns, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await request.answer

    async def _work(self) -> None:
        while batch := self._take():
            answers = await self._ask_together(batch) if len(batch) > 1 else None
            if answers is None:  # a request on which the model fails must not fail the others
                for request in batch:
                    await self._ask_alone(request)
                continue
            for request in batch:
                _settle(request, answers[: request.size])
                answers = answers[request.size :]

    def _take(self) -> list[_Request]:
        """The first requests that have equal columns. Those whose client has gone are left out."""
        waiting = [request for request in self._waiting if not request.answer.done()]
        batch = [request for request in waiting if request.columns.keys() == waiting[0].columns.keys()]
        batch = batch[: self.max_size]
        self._waiting = [request for request in waiting if request not in batch]
        return batch

    async def _ask_together(self, batch: list[_Request]) -> list[Any] | None:
        """The answers to all rows, or None if the model failed on them."""
        columns = {
            name: [value for request in batch for value in request.columns[name]] for name in batch[0].columns
        }
        try:
            return await self._ask(columns)
        except HeadraceError:
            return None

    async def _ask_alone(self, request: _Request) -> None:
        try:
            _settle(request, await self._ask(request.columns))
        except HeadraceError as error:
            if not request.answer.done():
                request.answer.set_exception(error)


def _settle(request: _Request, answer: list[Any]) -> None:
    if not request.answer.done():  # its client may have gone
        request.answer.set_result(answer)
