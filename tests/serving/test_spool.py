"""The spool and the shipper: no prediction is lost with its process, no incomplete frame is shipped."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.log.topics import set_largest_batch
from tests.until import until

from headrace import log
from headrace.kernel.errors import Unavailable
from headrace.kernel.files import create_draft
from headrace.kernel.topics import stored_name
from headrace.serving import shipper as shipping
from headrace.serving import spool as spooling
from headrace.serving.prediction import TOPIC, Prediction
from headrace.serving.shipper import Shipper, ShipResult, ship
from headrace.serving.spool import MAX_BYTES, Spool, find_oversized, folder_of_oversized, read_spool


@pytest.fixture
def topics(tmp_path):
    topics = log.open(f"sqlite://{tmp_path}/log")
    topics.create(TOPIC)
    yield topics
    topics.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


def read_log(topics):
    return topics.read(TOPIC, {0: 0}, 100_000).values


def test_the_file_of_a_running_replica_is_shipped_as_it_grows(folder, topics):
    spool = Spool(folder)
    spool.append(b"one")
    assert ship(folder, topics).predictions == 1
    assert ship(folder, topics).predictions == 0
    spool.append(b"two")
    spool.append(b"three")
    assert ship(folder, topics).predictions == 2
    assert read_log(topics) == [b"one", b"two", b"three"]
    assert len(list(folder.glob("*.spool"))) == 1
    spool.close()
    assert ship(folder, topics).files == 1
    assert list(folder.iterdir()) == []


def test_what_a_killed_shipper_left_is_removed_at_the_next_start(folder, topics):
    folder_of_oversized(folder).mkdir(parents=True)
    spool = Spool(folder)
    spool.append(b"one")
    kept = {path.name for path in folder.iterdir()}
    drafts = [create_draft(folder / "a.shipped"), create_draft(folder_of_oversized(folder) / "b.json")]
    for _, descriptor in drafts:
        os.close(descriptor)
    (folder / "shipped-and-removed.shipped").write_text("12")
    Shipper(folder, lambda: log.open(f"sqlite://{folder.parent}/log"), interval=600).stop()
    assert {path.name for path in folder.iterdir() if path.suffix != ".shipped"} == kept
    assert [path.stem for path in folder.glob("*.shipped")] == [path.stem for path in folder.glob("*.spool")]
    assert list(folder_of_oversized(folder).iterdir()) == []
    spool.close()


def test_a_full_file_is_followed_by_a_new_one(folder, topics, monkeypatch):
    monkeypatch.setattr(spooling, "_ROTATE", 110)
    spool = Spool(folder)
    sent = [b"%03d" % n + b"x" * 40 for n in range(20)]
    for prediction in sent:
        spool.append(prediction)
    result = ship(folder, topics)
    assert (result.predictions, result.files, result.torn) == (20, 9, 0)
    assert read_log(topics) == sent
    spool.close()


def test_a_file_that_cannot_be_begun_leaves_the_old_one_open(folder, topics, monkeypatch):
    monkeypatch.setattr("headrace.serving.spool._ROTATE", 100)
    spool = Spool(folder)
    spool.append(b"a" * 80)
    away = folder.rename(folder.with_name("away"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            spool.append(b"b" * 80)
    opened = os.open(os.devnull, os.O_RDONLY)  # takes the number of a file that was closed
    with pytest.raises(FileNotFoundError):
        spool.append(b"b" * 80)
    os.close(opened)  # it is still open
    away.rename(folder)
    spool.append(b"c" * 80)
    spool.close()
    assert list(read_spool(folder)) == [b"a" * 80, b"c" * 80]


def test_an_incomplete_last_frame_is_skipped_and_counted(folder, topics):
    spool = Spool(folder)
    spool.append(b"whole")
    spool.append(b"incomplete")
    spool.close()
    (path,) = folder.glob("*.spool")
    os.truncate(path, path.stat().st_size - 1)
    result = ship(folder, topics)
    assert (result.predictions, result.torn, result.files) == (1, 1, 1)
    assert read_log(topics) == [b"whole"]


def test_after_a_kill_a_batch_is_shipped_again_and_has_the_same_ids(folder, topics, monkeypatch):
    spool = Spool(folder)
    spool.append(b"one")
    with monkeypatch.context() as patch:
        patch.setattr(shipping, "write_file", lambda path, text: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            ship(folder, topics)
    ship(folder, topics)
    assert read_log(topics) == [b"one", b"one"]
    assert Prediction.__contract__.identity == ("id",)
    spool.close()


def test_predictions_survive_a_kill_of_their_process(folder, topics):
    program = f"""
from pathlib import Path
from headrace.serving.spool import Spool
spool = Spool(Path({str(folder)!r}))
for n in range(1_000_000):
    spool.append(b"%d" % n)
    print(n, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    last = 0
    for line in child.stdout:
        last = int(line)
        if last >= 500:
            break
    os.kill(child.pid, signal.SIGKILL)
    last = max([last, *(int(line) for line in child.stdout.read().split(b"\n")[:-1])])
    child.wait()
    child.stdout.close()
    shipper = Shipper(folder, lambda: log.open(f"sqlite://{folder.parent}/log"))
    shipper.stop()
    shipped = [int(value) for value in read_log(topics)]
    assert shipped[: last + 1] == list(range(last + 1))
    assert shipper.total.predictions == len(shipped)
    assert list(folder.iterdir()) == []


@contextmanager
def largest_file(size=None):
    """A file cannot get larger, as on a full disk: a write stops in the middle of a frame. None: any size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = before[1] if size is None else size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_shipper_that_reads_a_half_written_append_skips_nothing_afterwards(folder, topics, monkeypatch):
    spool = Spool(folder)
    spool.append(b"first")
    truncate = os.ftruncate

    def ship_and_truncate(descriptor, size):
        with largest_file():
            ship(folder, topics)  # it reads the whole frame of those that were written
        truncate(descriptor, size)

    with monkeypatch.context() as patch, largest_file(100):
        patch.setattr("headrace.serving.spool.os.ftruncate", ship_and_truncate)
        with pytest.raises(OSError, match="disk is full"):
            spool.append(b"a" * 40, b"b" * 40)
    returned = [b"%d" % number * 5 for number in range(9)]
    for prediction in returned:
        spool.append(prediction)
        ship(folder, topics)
    spool.close()
    assert ship(folder, topics).torn == 0
    assert read_log(topics) == [b"first", b"a" * 40, *returned]


def test_a_full_disk_gets_room_again_once_the_log_takes_the_spool(folder, topics, monkeypatch):
    """Nothing but removing a file works on it: the shipper cannot write how far it is."""
    spool, unmarked, returned = Spool(folder), {}, []
    with largest_file(400):
        for number in range(20):
            try:
                spool.append(b"%02d" % number * 40)
            except OSError:
                continue
            returned.append(b"%02d" % number * 40)

    def fail(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    spool.append(b"more")
    returned.append(b"more")
    with monkeypatch.context() as patch:
        patch.setattr(shipping, "write_file", fail)
        for _ in range(3):
            with pytest.raises(Unavailable, match="No space left on device"):
                ship(folder, topics, unmarked)
    assert read_log(topics) == returned  # each of them once
    assert len(list(folder.glob("*.spool"))) == 1
    spool.append(b"after")
    assert ship(folder, topics, unmarked).predictions == 1
    assert unmarked == {}
    spool.close()
    ship(folder, topics, unmarked)
    assert read_log(topics) == [*returned, b"after"]
    assert list(folder.iterdir()) == []


@pytest.fixture
def kafka(empty_broker):
    topics = log.open(f"{empty_broker.url}/small")
    topics.create(TOPIC)
    yield topics
    topics.close()


def test_an_oversized_prediction_is_shipped_once_the_topic_takes_it(folder, kafka, empty_broker, caplog):
    spool = Spool(folder)
    large = os.urandom(1_200_000)  # larger than the broker takes
    for prediction in (b"one", large, b"two", os.urandom(MAX_BYTES), b"three"):
        spool.append(prediction)
    result = ship(folder, kafka)
    assert (result.predictions, result.oversized) == (3, 2)
    assert read_log(kafka) == [b"one", b"two", b"three"]
    assert large in [path.read_bytes() for path in find_oversized(folder)]
    assert large in list(read_spool(folder))
    assert str(folder / "oversized") in caplog.text
    assert ship(folder, kafka) == ShipResult()
    spool.append(b"four")
    set_largest_batch(empty_broker.url, stored_name(TOPIC, "small"), 2_000_000)
    kafka.close()
    reopened = log.open(f"{empty_broker.url}/small")
    assert ship(folder, reopened).predictions == 2
    assert sorted(read_log(reopened), key=len)[-1] == large
    assert len(find_oversized(folder)) == 1
    spool.close()
    reopened.close()


def test_on_a_full_disk_what_came_with_an_oversized_prediction_is_on_the_log_once(folder, kafka, monkeypatch):
    spool, unmarked, large = Spool(folder), {}, os.urandom(1_200_000)  # larger than the broker takes
    for prediction in (b"one", large, b"two"):
        spool.append(prediction)

    def fail(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shipping, "write_file", fail)
        for _ in range(3):
            with pytest.raises(Unavailable, match="No space left on device"):
                ship(folder, kafka, unmarked)
        spool.close()  # the file is complete, and stays: it has the only copy
        with pytest.raises(Unavailable, match="No space left on device"):
            ship(folder, kafka, unmarked)
        assert list(read_spool(folder)) == [b"one", large, b"two"]
    results = [ship(folder, kafka, unmarked) for _ in range(2)]
    assert results == [ShipResult(oversized=1), ShipResult(files=1)]
    assert (read_log(kafka), list(read_spool(folder))) == ([b"one", b"two"], [large])


def test_a_kill_leaves_one_file_of_an_oversized_prediction(folder, kafka, monkeypatch):
    spool = Spool(folder)
    spool.append(os.urandom(1_200_000))
    write_file = shipping.write_file
    for _ in range(2):
        with monkeypatch.context() as patch:

            def write_or_die(path, content):
                if path.suffix == ".shipped":
                    raise SystemExit
                write_file(path, content)

            patch.setattr(shipping, "write_file", write_or_die)
            with pytest.raises(SystemExit):
                ship(folder, kafka)
    assert ship(folder, kafka).oversized == 1
    assert len(find_oversized(folder)) == 1
    spool.close()


@pytest.mark.parametrize(
    ("damage", "mend", "message"),
    [
        (Path.mkdir, Path.rmdir, "spool of predictions"),
        (lambda mark: mark.write_text("no number"), Path.unlink, "ValueError: .*'no number'"),
    ],
)
def test_a_folder_that_cannot_be_used_ends_no_shipper(folder, topics, damage, mend, message):
    spool = Spool(folder)
    spool.append(b"one")
    (path,) = folder.glob("*.spool")
    damage(path.with_suffix(".shipped"))
    shipper = Shipper(folder, lambda: log.open(f"sqlite://{folder.parent}/log"), interval=0.01)
    until(lambda: shipper.error is not None)
    assert re.search(message, str(shipper.error))
    mend(path.with_suffix(".shipped"))
    until(lambda: shipper.error is None)
    shipper.stop()
    assert read_log(topics) == [b"one"]
    spool.close()
