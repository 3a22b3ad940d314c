"""Ids: unique, sorted by time, and readable as a time, from many threads too."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import UUID

import pytest

from headrace.kernel.ids import id_time, new_id, new_ids
from headrace.kernel.time import now


def test_ids_are_uuid7_in_the_order_they_were_made() -> None:
    ids = [*(new_id() for _ in range(10_000)), *new_ids(10_000), new_id()]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert {UUID(text).version for text in ids} == {7}
    assert {UUID(text).variant for text in ids} == {"specified in RFC 4122"}


def test_an_id_holds_the_time_when_it_was_made() -> None:
    before = now()
    text = new_id()
    assert before - timedelta(milliseconds=1) <= id_time(text) <= now() + timedelta(milliseconds=100)


def test_threads_never_make_the_same_id() -> None:
    of_threads: list[list[str]] = [[] for _ in range(8)]
    threads = [
        threading.Thread(target=lambda ids: ids.extend(new_id() for _ in range(2_000)), args=(ids,))
        for ids in of_threads
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text for ids in of_threads for text in ids}) == 16_000
    assert all(ids == sorted(ids) for ids in of_threads)


@pytest.mark.parametrize("text", ["", "no id", "123e4567-e89b-42d3-a456-426614174000"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  UUID's own words differ
        id_time(text)
