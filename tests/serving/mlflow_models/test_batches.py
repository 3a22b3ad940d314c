"""Batches: requests that wait for the model share a call, and each gets its own answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace.kernel.errors import Unavailable
from headrace.serving.errors import ModelFailed
from headrace.serving.mlflow_models.batches import Batches
from headrace.serving.mlflow_models.process import Columns


class Doubler:
    """A model that answers when it may, and fails on a call with the number 13.

    Attributes:
        calls: the numbers of each call.
        is_open: whether it may answer.
    """

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.is_open = asyncio.Event()

    async def ask(self, columns: Columns) -> list[Any]:
        numbers = list(next(iter(columns.values())))
        self.calls.append(numbers)
        await self.is_open.wait()
        if 13 in numbers:
            raise ModelFailed("13")
        if 99 in numbers:
            raise Unavailable("away")
        return [2 * number for number in numbers]


async def ask_all(model: Doubler, batches: Batches, requests: list[Columns]) -> list[Any]:
    """Sends the requests while the model works on the first of them; returns their answers or errors."""
    tasks = [asyncio.create_task(batches.predict(columns)) for columns in requests[:1]]
    while not model.calls:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(batches.predict(columns)) for columns in requests[1:]]
    await asyncio.sleep(0)
    model.is_open.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def run(requests: list[Columns], max_size: int) -> tuple[list[list[float]], list[Any]]:
    """The calls of the model, and the answers to the requests."""

    async def test() -> tuple[list[list[float]], list[Any]]:
        model = Doubler()
        batches = Batches(model.ask)
        batches.max_size = max_size
        return model.calls, await ask_all(model, batches, requests)

    return asyncio.run(test())


def test_requests_that_wait_share_calls_up_to_the_largest_size() -> None:
    calls, answers = run([{"x": [1]}, {"x": [2, 3]}, {"x": [4]}, {"x": [5]}], 2)
    assert calls == [[1], [2, 3, 4], [5]]
    assert answers == [[2], [4, 6], [8], [10]]


def test_a_size_of_one_asks_for_each_request() -> None:
    calls, answers = run([{"x": [1]}, {"x": [2]}, {"x": [3]}], 1)
    assert calls == [[1], [2], [3]]
    assert answers == [[2], [4], [6]]


def test_requests_with_other_columns_are_not_mixed() -> None:
    calls, answers = run([{"x": [1]}, {"x": [2]}, {"y": [3]}, {"x": [4]}], 8)
    assert calls == [[1], [2, 4], [3]]
    assert answers == [[2], [4], [6], [8]]


@pytest.mark.parametrize(("number", "error"), [(13, ModelFailed), (99, Unavailable)])
def test_a_request_on_which_the_model_fails_fails_alone(number: int, error: type[Exception]) -> None:
    calls, answers = run([{"x": [1]}, {"x": [2]}, {"x": [number]}, {"x": [4]}], 8)
    assert calls == [[1], [2, number, 4], [2], [number], [4]]
    assert [answers[0], answers[1], answers[3]] == [[2], [4], [8]]
    assert isinstance(answers[2], error)


def test_a_client_that_leaves_is_not_asked_for() -> None:
    async def test() -> None:
        model = Doubler()
        batches = Batches(model.ask)
        batches.max_size = 8
        first = asyncio.create_task(batches.predict({"x": [1]}))
        await asyncio.sleep(0)
        left, kept = (asyncio.create_task(batches.predict({"x": [number]})) for number in (2, 3))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        model.is_open.set()
        assert await first == [2]
        assert await kept == [6]
        assert model.calls == [[1], [3]]

    asyncio.run(test())
