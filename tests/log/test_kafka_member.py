"""Sharing a topic on Kafka: two machines of one name, and the slots that name members."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, sleep

import pytest
from services.kafka import Broker

from headrace import log
from headrace.log.slot import MemberSlot


def test_two_machines_of_one_name_both_get_a_share(
    empty_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = log.open(empty_broker.url)
    opened.create("wide", 4)
    monkeypatch.setattr("headrace.log.slot.socket.gethostname", lambda: "worker")
    monkeypatch.setattr(Path, "resolve", lambda _: Path("/state"))
    members = [opened.join("wide", "workers", tmp_path / machine) for machine in ("one", "other")]
    deadline = monotonic() + 180
    while sorted(len(member.partitions()) for member in members) != [2, 2] or members[0].partitions() & (
        members[1].partitions()
    ):
        assert monotonic() < deadline
        sleep(0.02)
    for member in members:
        member.close()
    opened.close()


def test_slots_have_unique_names_and_are_free_once_closed(tmp_path: Path) -> None:
    folders = [(tmp_path, "workers"), (tmp_path, "workers"), (tmp_path / "elsewhere", "workers")]
    slots = [MemberSlot(*arguments) for arguments in [*folders, (tmp_path, "others")]]
    names = [slot.name for slot in slots]
    assert len(set(names[:3])) == 3
    assert names[3] == names[0]  # groups are independent of each other
    slots[0].close()
    slots[0] = MemberSlot(tmp_path, "workers")
    assert slots[0].name == names[0]
    for slot in slots:
        slot.close()
