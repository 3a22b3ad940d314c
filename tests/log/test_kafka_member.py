"""What is Kafka's alone in sharing a topic."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, sleep

import pytest
from services.kafka import Broker

from headrace import log
from headrace.log.slot import Slot


def test_two_machines_that_take_each_other_for_one_both_get_a_share(
    empty_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = log.open(empty_broker.url)
    opened.create("wide", 4)
    monkeypatch.setattr("headrace.log.slot.socket.gethostname", lambda: "worker")
    monkeypatch.setattr(Path, "resolve", lambda _: Path("/state"))
    members = [opened.join("wide", "workers", tmp_path / machine) for machine in ("one", "other")]
    deadline = monotonic() + 60
    while sorted(len(one.partitions()) for one in members) != [2, 2] or members[0].partitions() & (
        members[1].partitions()
    ):
        assert monotonic() < deadline
        sleep(0.02)
    for one in members:
        one.close()
    opened.close()


def test_slots_are_told_apart_and_come_free_when_their_holder_is_gone(tmp_path: Path) -> None:
    folders = [(tmp_path, "workers"), (tmp_path, "workers"), (tmp_path / "elsewhere", "workers")]
    slots = [Slot(*one) for one in [*folders, (tmp_path, "others")]]
    names = [one.name for one in slots]
    assert len(set(names[:3])) == 3
    assert names[3] == names[0]  # groups know nothing of each other
    slots[0].close()
    slots[0] = Slot(tmp_path, "workers")
    assert slots[0].name == names[0]
    for one in slots:
        one.close()
