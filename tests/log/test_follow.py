"""Following a topic whose records are state."""

from __future__ import annotations

import pytest

from headrace import log as logs
from headrace.kernel.errors import Unavailable
from headrace.log.follow import TopicFollower


def test_a_follower_skips_no_record_if_the_log_fails_while_it_reads(tmp_path, monkeypatch):
    topics = logs.open(f"sqlite://{tmp_path}/log")
    topics.create("states")
    topics.append("states", [b"one", b"two"])
    follower, read, reads = TopicFollower(topics, "states", bytes), topics.read, []

    def read_once(*arguments):
        reads.append(arguments)
        if len(reads) > 1:
            raise Unavailable("the log is away")
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(topics, "read", read_once)
        with pytest.raises(Unavailable):
            follower.poll()
    assert len(reads) == 2
    assert [record.value for record in follower.poll()] == [b"one", b"two"]
    assert follower.poll() == []
    topics.close()
