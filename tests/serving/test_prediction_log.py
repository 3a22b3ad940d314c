"""The spool and the shipper: nothing is lost with the process, nothing is shipped that is torn."""

import os
import signal
import subprocess
import sys

import msgspec
import pytest
from tests.contract.test_log import configure

from headrace import log
from headrace.serving import prediction_log
from headrace.serving.prediction_log import TOPIC, Shipper, Spool, ship


@pytest.fixture
def topics(tmp_path):
    opened = log.open(f"sqlite://{tmp_path}/log")
    opened.create(TOPIC)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


def on_log(topics):
    return topics.read(TOPIC, {0: 0}, 100_000).values


def test_a_living_replicas_file_is_shipped_as_it_grows(folder, topics):
    spool = Spool(folder)
    spool.append(b"one")
    assert ship(folder, topics).predictions == 1
    assert ship(folder, topics).predictions == 0
    spool.append(b"two")
    spool.append(b"three")
    assert ship(folder, topics).predictions == 2
    assert on_log(topics) == [b"one", b"two", b"three"]
    assert len(list(folder.glob("*.spool"))) == 1
    spool.close()
    assert ship(folder, topics).files == 1
    assert list(folder.iterdir()) == []


def test_a_full_file_is_followed_by_the_next(folder, topics, monkeypatch):
    monkeypatch.setattr(prediction_log, "_ROTATE", 110)
    spool = Spool(folder)
    sent = [b"%03d" % n + b"x" * 40 for n in range(20)]
    for one in sent:
        spool.append(one)
    done = ship(folder, topics)
    assert (done.predictions, done.files, done.torn) == (20, 9, 0)
    assert on_log(topics) == sent
    spool.close()


def test_a_torn_last_frame_is_skipped_and_counted(folder, topics):
    spool = Spool(folder)
    spool.append(b"whole")
    spool.append(b"this one will be torn")
    spool.close()
    (path,) = folder.glob("*.spool")
    os.truncate(path, path.stat().st_size - 1)
    done = ship(folder, topics)
    assert (done.predictions, done.torn, done.files) == (1, 1, 1)
    assert on_log(topics) == [b"whole"]


def test_a_kill_between_log_and_mark_ships_again_what_ingest_refuses_by_id(folder, topics, monkeypatch):
    spool = Spool(folder)
    spool.append(b"one")
    with monkeypatch.context() as patch:
        patch.setattr(prediction_log, "_keep", lambda path, text: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            ship(folder, topics)
    ship(folder, topics)
    assert on_log(topics) == [b"one", b"one"]
    assert prediction_log.Prediction.__contract__.identity == ("id",)
    spool.close()


def test_what_a_killed_process_was_told_is_kept(folder, topics):
    program = f"""
from pathlib import Path
from headrace.serving.prediction_log import Spool
spool = Spool(Path({str(folder)!r}))
for n in range(1_000_000):
    spool.append(b"%d" % n)
    print(n, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    told = 0
    for line in child.stdout:
        told = int(line)
        if told >= 500:
            break
    os.kill(child.pid, signal.SIGKILL)
    told = max([told, *(int(line) for line in child.stdout.read().split(b"\n")[:-1])])
    child.wait()
    child.stdout.close()
    shipper = Shipper(folder, topics)
    shipper.stop()
    kept = [int(value) for value in on_log(topics)]
    assert kept[: told + 1] == list(range(told + 1))
    assert shipper.shipped.predictions == len(kept)
    assert list(folder.iterdir()) == []


def test_a_prediction_is_json_that_its_contract_reads_back():
    struct = prediction_log.Prediction.__contract__.struct
    assert [field.name for field in msgspec.structs.fields(struct)][:3] == ["id", "model", "version"]


@pytest.fixture
def kafka(empty_broker):
    opened = log.open(empty_broker.url)
    opened.create(TOPIC)
    yield opened
    opened.close()


def test_a_prediction_that_the_topic_does_not_take_is_put_aside_and_shipped_once_it_does(
    folder, kafka, empty_broker, caplog
):
    spool = Spool(folder)
    large = os.urandom(1_200_000)  # the largest that a spool takes is larger than what a broker does
    for one in (b"one", large, b"two", os.urandom(prediction_log.LARGEST), b"three"):
        spool.append(one)
    done = ship(folder, kafka)
    assert (done.predictions, done.aside) == (3, 2)
    assert on_log(kafka) == [b"one", b"two", b"three"]
    assert large in [path.read_bytes() for path in prediction_log.aside(folder)]
    assert large in list(prediction_log.spooled(folder))
    assert str(folder / "aside") in caplog.text
    assert ship(folder, kafka) == prediction_log.Shipped()  # it is no retry that holds up or doubles anything
    spool.append(b"four")
    configure(empty_broker.url, TOPIC, 2_000_000)
    kafka.close()
    again = log.open(empty_broker.url)
    assert ship(folder, again).predictions == 2
    assert sorted(on_log(again), key=len)[-1] == large
    assert len(prediction_log.aside(folder)) == 1
    spool.close()
    again.close()


def test_a_kill_while_one_is_put_aside_leaves_one_file_of_it(folder, kafka, monkeypatch):
    spool = Spool(folder)
    spool.append(os.urandom(1_200_000))
    keep = prediction_log._keep
    for _ in range(2):
        with monkeypatch.context() as patch:

            def dying(path, content):
                if path.suffix == ".shipped":
                    raise SystemExit
                keep(path, content)

            patch.setattr(prediction_log, "_keep", dying)
            with pytest.raises(SystemExit):
                ship(folder, kafka)
    assert ship(folder, kafka).aside == 1
    assert len(prediction_log.aside(folder)) == 1
    spool.close()
