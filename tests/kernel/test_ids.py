"""Ids: unique, in order, with their time, also from many threads."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from headrace.kernel.ids import id_time, new_id
from headrace.kernel.time import now


def test_ids_are_uuid7_in_the_order_they_were_made() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {UUID(one).version for one in made} == {7}
    assert {UUID(one).variant for one in made} == {"specified in RFC 4122"}


def test_an_id_says_when_it_was_made() -> None:
    before = now()
    made = new_id()
    assert before - timedelta(milliseconds=1) <= id_time(made) <= now() + timedelta(milliseconds=100)


def test_threads_never_make_the_same() -> None:
    made: list[list[str]] = [[] for _ in range(8)]
    threads = [
        threading.Thread(target=lambda mine: mine.extend(new_id() for _ in range(2_000)), args=(mine,))
        for mine in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for mine in made for one in mine}) == 16_000
    assert all(mine == sorted(mine) for mine in made)


@pytest.mark.parametrize("text", ["", "no id", str(uuid4())])
def test_another_text_has_no_time(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  UUID's own words differ
        id_time(text)
