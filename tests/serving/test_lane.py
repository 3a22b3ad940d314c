"""A lane ends its process once, and says whether the process completed its work."""

import asyncio
import os
import signal

import pytest

from headrace.serving.lane import Lane

WORKER = """
import os
from headrace.serving.frames import write_frame
from headrace.serving.lane import open_messages

messages, answers = open_messages(0)
next(messages)
for message in messages:
    write_frame(answers, str(os.getpid()).encode())
"""


@pytest.fixture
def lane(tmp_path):
    (tmp_path / "lane_worker.py").write_text(WORKER)
    lane = Lane("lane_worker", b"", work="works", longest=60.0, environment={"PYTHONPATH": str(tmp_path)})
    yield lane
    lane.close()


def test_a_lane_may_be_closed_twice(lane):
    asyncio.run(lane.ask(b"work"))
    assert (lane.close(60.0), lane.close(60.0)) == (True, True)


def test_a_process_that_was_killed_did_not_complete_its_work(lane):
    os.kill(int(asyncio.run(lane.ask(b"work"))), signal.SIGKILL)
    assert lane.close(60.0) is False


def test_a_lane_that_was_never_asked_has_nothing_to_complete(lane):
    assert lane.close(60.0) is True
