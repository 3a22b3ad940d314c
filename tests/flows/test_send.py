"""The command `send`: the events that it appends, and the files that it refuses before it appends any."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.until import until

from headrace import lake, lineage, log
from headrace.cli.main import _exit_code
from headrace.config.settings import Settings, load_settings
from headrace.flows.events.ingest import ingest
from headrace.flows.events.send import send
from headrace.kernel.errors import CallError, NotAppended, Unavailable
from headrace.kernel.faults import VARIABLE
from headrace.log.partition import partition_of
from headrace.log.sqlite.log import SqliteLog
from headrace.workspace import Workspace

EVENTS = """
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
import msgspec
from headrace import Precision, Struct, event

@event(topic="sales", time="at", key="total", identity=["total"], dedup_within="1d", partitions=4,
       time_formats=["rfc3339", "%d.%m.%Y %H:%M", "epoch_s"], timezone="UTC", coerce=True)
class Sale(Struct):
    at: datetime = msgspec.field(name="Sold At")
    total: Annotated[Decimal, Precision(38, 18)]
    s: str | None = None
    n: int | None = None
    more: dict[str, Any] | None = None
"""
AT = b'"Sold At": "2026-03-01T12:00:00Z"'
Write = Callable[[str, bytes], Path]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    root = tmp_path / "project"
    (root / "selling").mkdir(parents=True)
    (root / "headrace.toml").write_text('[project]\nname = "selling"\n')
    (root / "selling" / "__init__.py").write_text("")
    (root / "selling" / "events.py").write_text(EVENTS)
    yield load_settings(root)
    for name in [name for name in sys.modules if name.split(".")[0] == "selling"]:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_file


def values_on_log(settings: Settings) -> list[bytes]:
    """The values on the topic, sorted."""
    opened = log.open(settings.log.url)
    try:
        if "sales" not in opened.topics():
            return []
        return sorted(opened.read("sales", dict.fromkeys(range(4), 0), 1_000_000).values)
    finally:
        opened.close()


def ingest_and_read_rows(settings: Settings) -> list[dict[str, Any]]:
    """Ingests the topic to its end; returns the rows of its table in the order of the log."""
    ingest(Workspace(settings), until_end=True)
    rows = lake.open(settings).table("sales").scan().sort("_log_partition", "_log_offset").collect()
    return rows.to_dicts()


def test_the_lines_of_a_file_are_appended_byte_for_byte(settings: Settings, write: Write) -> None:
    lines = [
        b"{" + AT + b', "total": 12345678901234567890.123456789012345678}',
        b"{" + AT + b', "total": 0.30000000000000001 }',
        b"{" + AT + b', "total": 0.3, "n": ""}',
        b"{" + AT + b',  "total":1.10, "s": "a", "s": 7}',
        b"{" + AT + b', "total": "x", "total": 5}',
        b'{"torn": ',
        b"\xff\xfe\xfd",
        b"[1.10]",
    ]
    file = write(
        "sales.ndjson", b"\xef\xbb\xbf" + b"\r\n".join(lines[:4]) + b"\n\n  \n" + b"\n".join(lines[4:])
    )
    assert send(Workspace(settings), "sales", file).events == len(lines)
    assert values_on_log(settings) == sorted(lines)
    rows = ingest_and_read_rows(settings)
    good = {row["total"] for row in rows if row["_valid"]}
    assert good == {
        Decimal("12345678901234567890.123456789012345678"),
        Decimal("0.30000000000000001"),
        Decimal("0.3"),
    }
    assert sorted(row["_raw"] for row in rows if not row["_valid"]) == sorted(lines[3:])


def test_a_sent_file_is_recorded_with_its_digest_as_the_input_of_the_topic(
    settings: Settings, write: Write
) -> None:
    content = b"{" + AT + b', "total": 1}\nbroken\n'
    outside = write("sales.ndjson", content)
    inside = settings.root / "data" / "sales.ndjson"
    inside.parent.mkdir()
    inside.write_bytes(content)
    cut_off = write("cut.csv", b'Sold At,total\n"2026-03-01T12:00:00Z,1\n')
    for file in (outside, inside):
        send(Workspace(settings), "sales", file)
    with pytest.raises(CallError):
        send(Workspace(settings), "sales", cut_off)
    failed, *runs = lineage.open(settings).runs(job="send sales")
    assert (failed.outcome, failed.outputs) == ("FAIL", ())
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert [run.outcome for run in runs] == ["COMPLETE"] * 2
    inputs = [(dataset.kind, dataset.name, dataset.facts) for run in runs for dataset in run.inputs]
    assert inputs == [
        ("file", "data/sales.ndjson", {"digest": digest, "bytes": len(content)}),
        ("file", outside.resolve().as_posix(), {"digest": digest, "bytes": len(content)}),
    ]
    outputs = [(dataset.kind, dataset.name, dataset.facts["rows"]) for run in runs for dataset in run.outputs]
    assert outputs == [("topic", "sales", 2)] * 2


def test_lines_may_end_with_a_carriage_return_alone(settings: Settings, write: Write) -> None:
    lines = [b"{" + AT + b', "total": %d}' % number for number in range(3)]
    send(Workspace(settings), "sales", write("a.ndjson", b"\r".join(lines) + b"\r"))
    assert values_on_log(settings) == lines
    send(
        Workspace(settings),
        "sales",
        write("b.csv", b"Sold At,total\r2026-03-01T12:00:00Z,7\r2026-03-01T12:00:00Z,8\r"),
    )
    assert [row["total"] for row in ingest_and_read_rows(settings) if row["_valid"] and row["total"] > 5] == [
        7,
        8,
    ]


def test_equal_values_have_one_key_however_they_are_spelled(settings: Settings, write: Write) -> None:
    same = [b"1.1", b"1.10", b'"1.1"', b"11e-1", b'"1.1000"']
    lines = [b"{" + AT + b', "total": ' + total + b"}" for total in same]
    send(Workspace(settings), "sales", write("a.ndjson", b"\n".join(lines)))
    rows = ingest_and_read_rows(settings)
    assert {row["_log_partition"] for row in rows} == {partition_of(b"1.100000000000000000", 4)}
    assert sorted(row["_code"] or "" for row in rows) == ["", *["duplicate"] * 4]


def test_parquet_rows_keep_their_digits(settings: Settings, tmp_path: Path) -> None:
    total = Decimal("12345678901234567890.123456789012345678")
    frame = pl.DataFrame(
        {"Sold At": [datetime(2026, 3, 1, tzinfo=UTC)], "total": [total], "more": [{"x": 0.1}]},
        schema_overrides={"total": pl.Decimal(38, 18)},
    )
    frame.write_parquet(tmp_path / "sales[1].parquet")
    send(Workspace(settings), "sales", tmp_path / "sales[1].parquet")
    assert [(row["total"], row["more"]) for row in ingest_and_read_rows(settings)] == [(total, '{"x":0.1}')]


HEADER = b"Sold At,total,s\n"
GOOD = b"2026-03-01T12:00:00Z,1,a\n"


@pytest.mark.parametrize(
    ("name", "content", "what", "where"),
    [
        ("a.csv", b"", "it has no header", "a.csv"),
        ("a.csv", b"Sold At,s,s\n" + GOOD, "its header names the column 's' 2 times", "a.csv: line 1"),
        (
            "a.csv",
            HEADER + GOOD * 25_000 + b"x,2,Cafe, black\n",
            "row 25,001 has 4 cells, and the header names 3 columns",
            "a.csv: line 25002",
        ),
        (
            "a.csv",
            HEADER + b'x,1,"two\nlines"\n' + b'x,2,"open\n' + GOOD * 9,
            "row 2 cannot be read: unexpected end of data",
            "a.csv: line 4",
        ),
        ("a.csv", HEADER + b'x,1,"open\n' + GOOD + b'x,3,"c"\n', "row 1 cannot be read", "a.csv: line 2"),
        ("a.csv", b'Sold At,"s\n' + GOOD, "the header cannot be read: unexpected end of data", "a.csv: line 1"),
        ("a.csv", "Sold At,total\n2026,1\n".encode("utf-16"), "it is written in UTF-16", "a.csv"),
        ("a.ndjson", '{"total": 1}'.encode("utf-16"), "it is written in UTF-16", "a.ndjson"),
        ("a.parquet", b"PAR1 no", "it cannot be read as Parquet after row 0: ", "a.parquet"),
        ("a.json", b"{}", "a .json file cannot be read", "a.json"),
    ],
)
def test_a_file_whose_rows_cannot_be_read_sends_nothing(
    settings: Settings, write: Write, name: str, content: bytes, what: str, where: str
) -> None:
    file = write(name, content)
    for shift_to_now in (False, True):
        with pytest.raises(CallError) as error:
            send(Workspace(settings), "sales", file, shift_to_now=shift_to_now)
        assert error.value.what.startswith(what)
        assert error.value.where == f"{file.parent}/{where}"
        assert error.value.remedy.endswith(f"Nothing of {name} has been sent.")
    assert values_on_log(settings) == []


def test_a_row_may_lack_cells_or_have_extra_empty_ones(settings: Settings, write: Write) -> None:
    send(
        Workspace(settings),
        "sales",
        write("a.csv", HEADER + b'2026-03-01T12:00:00Z,1\n\n2026-03-01T12:00:00Z,2,"a ""b"" c",,\n'),
    )
    assert [json.loads(raw) for raw in values_on_log(settings)] == [
        {"Sold At": "2026-03-01T12:00:00Z", "total": "1"},
        {"Sold At": "2026-03-01T12:00:00Z", "total": "2", "s": 'a "b" c'},
    ]


def test_a_long_cell_is_sent_whole(settings: Settings, write: Write) -> None:
    text = b"x" * 200_000
    send(Workspace(settings), "sales", write("a.csv", HEADER + b"2026-03-01T12:00:00Z,1," + text + b"\n"))
    assert json.loads(values_on_log(settings)[0])["s"] == text.decode()


def test_error_of_the_log_says_how_to_continue(
    settings: Settings, write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [b"{" + AT + b', "total": %d}' % number for number in range(50_000)]
    file = write("sales.ndjson", b"\n".join(lines))
    append = SqliteLog.append

    def fail_on_a_short_batch(self: SqliteLog, topic: str, values: Sequence[bytes], *rest: Any) -> Any:
        if len(values) < 20_000:
            raise NotAppended("the disk is full")
        return append(self, topic, values, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(SqliteLog, "append", fail_on_a_short_batch)
        with pytest.raises(NotAppended) as error:
            send(Workspace(settings), "sales", file)
    assert (
        error.value.remedy
        == "The first 40,000 events of sales.ndjson are on the topic: continue with --skip 40000."
    )
    arguments = ["send", "sales", str(file), "--skip", "40000", "--project", str(settings.root)]
    assert _exit_code(arguments) == 0
    assert "Sent 10,000 events to sales" in capsys.readouterr().out
    assert values_on_log(settings) == sorted(lines)


def test_the_rest_of_a_file_is_moved_by_the_same_distance_as_its_beginning(
    settings: Settings, write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [b'{"Sold At": %d, "total": %d}' % (1577836800 + n, n) for n in range(30_000)]
    file = write("sales.ndjson", b"\n".join(lines))
    append = SqliteLog.append

    def fail_on_a_short_batch(self: SqliteLog, topic: str, values: Sequence[bytes], *rest: Any) -> Any:
        if len(values) < 20_000:
            raise NotAppended("the disk is full")
        return append(self, topic, values, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(SqliteLog, "append", fail_on_a_short_batch)
        with pytest.raises(NotAppended) as error:
            send(Workspace(settings), "sales", file, shift_to_now=True)
    options = str(error.value.remedy).partition("continue with ")[2].rstrip(".").split()
    assert options[:2] == ["--skip", "20000"]
    with pytest.raises(CallError, match="another distance"):
        send(Workspace(settings), "sales", file, shift_to_now=True, skip=20_000)
    later = datetime.now(UTC) + timedelta(hours=1)  # the distance must not depend on when the rest is sent
    monkeypatch.setattr("headrace.events.shift.now_micros", lambda: int(later.timestamp()) * 1_000_000)
    assert _exit_code(["send", "sales", str(file), *options, "--project", str(settings.root)]) == 0
    assert "Sent 10,000 events to sales" in capsys.readouterr().out
    seconds = int(options[3])
    moved = [b'{"Sold At": %d, "total": %d}' % (1577836800 + n + seconds, n) for n in range(30_000)]
    assert values_on_log(settings) == sorted(moved)


def test_shift_moves_the_times_of_a_renamed_field_and_nothing_else(settings: Settings, write: Write) -> None:
    old = [
        b'{"Sold At":"2020-01-01T00:00:00.5Z",  "total": 1.10, "s": "a", "s": "b"}',
        b'{"Sold At": "31.12.2019 23:59", "total": 2, "s": "31.12.2019 23:59"}',
        b'{"Sold At": "31.12.2019 23:58", "total": 3, "more": {"Sold At": "31.12.2019 23:58", "y": 1.10}}',
        b'{"Sold At": 1577836740, "total": 4}',
        b'{"Sold At": 1577836740.25, "total": 5}',
        b'{"Sold At": "1577836740.250", "total": 6}',
        b'{"Sold At": "never", "total": 7}',
        b"torn",
    ]
    begun = datetime.now(UTC)
    report = send(Workspace(settings), "sales", write("a.ndjson", b"\n".join(old)), shift_to_now=True)
    assert report.shifted is not None
    distance = report.shifted
    assert abs(datetime(2020, 1, 1, 0, 0, 0, 500_000, UTC) + distance - begun) < timedelta(minutes=1)
    assert distance.microseconds == 0
    seconds = int(distance.total_seconds())

    def encode_moved_time(minute: int) -> bytes:
        moved = datetime(2019, 12, 31, 23, minute, tzinfo=UTC) + distance
        return f"{moved:%d.%m.%Y %H:%M}".encode()

    first = datetime(2020, 1, 1, 0, 0, 0, 500_000, UTC) + distance
    assert values_on_log(settings) == sorted(
        [
            old[0].replace(b"2020-01-01T00:00:00.5Z", f"{first:%Y-%m-%dT%H:%M:%S}.500Z".encode()),
            b'{"Sold At":"%b","total":2,"s":"31.12.2019 23:59"}' % encode_moved_time(59),
            b'{"Sold At":"%b","total":3,"more":{"Sold At": "31.12.2019 23:58", "y": 1.10}}'
            % encode_moved_time(58),
            b'{"Sold At": %d, "total": 4}' % (1577836740 + seconds),
            b'{"Sold At": %d.25, "total": 5}' % (1577836740 + seconds),
            b'{"Sold At": "%d.250", "total": 6}' % (1577836740 + seconds),
            *old[6:],
        ]
    )


def test_times_moved_into_an_hour_shown_twice_are_counted(
    settings: Settings, write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = settings.root / "selling" / "events.py"
    module.write_text(EVENTS.replace('timezone="UTC"', 'timezone="Europe/London"'))
    # The last event moves to 12:00 UTC on 25 October 2026. That night London's clocks showed 1:30 twice.
    now = datetime(2026, 10, 25, 12, tzinfo=UTC)
    monkeypatch.setattr("headrace.events.shift.now_micros", lambda: int(now.timestamp()) * 1_000_000)
    written = [b"10.01.2026 00:30", b"10.01.2026 01:30", b"10.01.2026 02:30", b"10.01.2026 12:00"]
    moved = [b"25.10.2026 01:30", b"25.10.2026 01:30", b"25.10.2026 02:30", b"25.10.2026 12:00"]
    file = write("a.ndjson", b"\n".join(b'{"Sold At":"%b","total":1}' % time for time in written))
    assert _exit_code(["send", "sales", str(file), "--shift-to-now", "--project", str(settings.root)]) == 0
    assert "1 of them will be read an hour too early" in capsys.readouterr().out
    assert values_on_log(settings) == sorted(b'{"Sold At":"%b","total":1}' % time for time in moved)


def test_a_folder_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(CallError) as error:
        send(Workspace(settings), "sales", tmp_path)
    assert error.value.what == "it is a folder"


def test_a_file_without_a_time_cannot_be_moved(settings: Settings, write: Write) -> None:
    file = write("a.ndjson", b'{"Sold At": "never", "total": 1}')
    with pytest.raises(CallError) as error:
        send(Workspace(settings), "sales", file, shift_to_now=True)
    assert error.value.what == "no event has a 'Sold At' that can be parsed, so no time can be moved to now"
    assert error.value.where == str(file)


def test_sent_events_are_history_unless_they_are_live(settings: Settings, write: Write) -> None:
    send(Workspace(settings), "sales", write("a.ndjson", b"{" + AT + b', "total": 1}'))
    send(Workspace(settings), "sales", write("b.ndjson", b"{" + AT + b', "total": 2}'), live=True)
    history, live = sorted(ingest_and_read_rows(settings), key=lambda row: row["_arrived_at"])
    assert history["_known_at"] == history["at"]
    assert live["_known_at"] == live["_arrived_at"] > live["at"]


def test_a_file_that_is_sent_again_is_told_and_its_forgotten_events_count_twice(
    settings: Settings, write: Write
) -> None:
    totals = [number for number in range(100) if partition_of(b"%d.%018d" % (number, 0), 4) == 0]
    days = [b'{"Sold At": "2026-03-0%dT12:00:00Z", "total": "%d"}' % (day, totals[day]) for day in (1, 2, 3)]
    file = write("sales.ndjson", b"\n".join(days) + b"\n")
    reports = []
    for _ in range(2):
        reports.append(send(Workspace(settings), "sales", file))
        ingest(Workspace(settings), until_end=True)
    first, again = reports
    assert first.earlier is None
    assert again.earlier is not None
    assert again.earlier.state == "complete"
    assert "1d older than the newest one count twice" in again.earlier.repeats
    rows = lake.open(settings).table("sales").scan().filter("_valid").collect()
    assert sorted(rows["total"].cast(int)) == sorted([totals[1], *totals[1:4]])
    write("sales.ndjson", days[0] + b"\n")
    assert send(Workspace(settings), "sales", file, skip=1).earlier is None  # which sends nothing
    assert send(Workspace(settings), "sales", file).earlier is None
    assert send(Workspace(settings), "sales", file, skip=1).earlier is None


ROWS = [b"{" + AT + b', "total": %d}\n' % number for number in range(4)]


def find_earlier(settings: Settings, file: Path, **options: Any) -> tuple[str, int] | None:
    """What the report of a send says of an earlier one: its state and how many events it has sent."""
    answers = []
    report = send(Workspace(settings), "sales", file, tell=lambda *answer: answers.append(answer), **options)
    assert answers == [(report.earlier, True)]  # before the first event, so that a user can end it
    return None if report.earlier is None else (report.earlier.state, report.earlier.events)


def test_a_file_that_was_sent_under_another_name_is_told(settings: Settings, write: Write) -> None:
    assert find_earlier(settings, write("a.ndjson", b"".join(ROWS))) is None
    assert find_earlier(settings, write("b.ndjson", b"".join(ROWS))) == ("complete", 4)
    report = send(Workspace(settings), "sales", write("c.ndjson", b"".join(ROWS)))
    assert report.earlier is not None
    assert report.earlier.file == (write("b.ndjson", b"".join(ROWS))).resolve().as_posix()
    assert find_earlier(settings, write("d.ndjson", ROWS[0])) is None


def test_a_file_that_has_grown_since_is_told_with_what_to_skip(settings: Settings, write: Write) -> None:
    file = write("a.ndjson", b"".join(ROWS[:2]))
    assert find_earlier(settings, file) is None
    write("a.ndjson", b"".join(ROWS[:3])[:-1])  # the newline is written with the next event
    assert find_earlier(settings, file) == ("partial", 2)
    write("a.ndjson", b"".join(ROWS))
    assert find_earlier(settings, file, skip=3) is None
    assert find_earlier(settings, file, skip=3) == ("complete", 0)  # of the first 3 that call sent none
    command = [sys.executable, "-m", "headrace", "send", "sales", str(file), "--project", str(settings.root)]
    write("a.ndjson", ROWS[3])
    subprocess.run(command, env=os.environ | {VARIABLE: "send.batch"}, check=False)
    write("a.ndjson", b"".join([ROWS[3], *ROWS]))
    assert find_earlier(settings, file) == ("partial", 0)  # nothing says how far the killed one came
    write("a.ndjson", b"".join([ROWS[1], *ROWS]))
    assert find_earlier(settings, file) is None


def test_the_last_event_of_a_file_that_has_grown_may_have_been_torn(settings: Settings, write: Write) -> None:
    file = write("a.ndjson", ROWS[0] + ROWS[1][:-9])
    assert find_earlier(settings, file) is None
    write("a.ndjson", b"".join(ROWS))
    assert find_earlier(settings, file) == ("partial", 1)


def test_the_rest_of_a_file_that_is_sent_twice_is_told(settings: Settings, write: Write) -> None:
    file = write("a.ndjson", b"".join(ROWS))
    assert find_earlier(settings, file, skip=2) is None
    assert find_earlier(settings, file, skip=4) is None
    assert find_earlier(settings, file, skip=3) == ("complete", 0)
    assert find_earlier(settings, file) == ("complete", 0)


def test_a_file_whose_times_were_moved_by_another_distance_may_count_twice_whole(
    settings: Settings, write: Write
) -> None:
    file = write("a.ndjson", b"".join(ROWS))
    for seconds in (10, 10):
        report = send(Workspace(settings), "sales", file, shift_by=timedelta(seconds=seconds))
    assert report.earlier is not None
    assert report.earlier.repeats.startswith("events more than 1d older")
    report = send(Workspace(settings), "sales", file)
    assert report.earlier is not None
    assert "all events may count twice" in report.earlier.repeats


def test_a_send_to_another_log_is_not_told(settings: Settings, write: Write) -> None:
    file = write("a.ndjson", b"".join(ROWS))
    assert find_earlier(settings, file) is None
    shutil.rmtree(settings.place("log"))
    assert find_earlier(settings, file) is None


def test_after_an_append_without_an_answer_its_events_may_count_twice(
    settings: Settings, write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only NotAppended says that the log has nothing (log.port)."""
    file = write("sales.ndjson", b"".join(ROWS))
    append = SqliteLog.append
    error: type[BaseException]
    for error in (Unavailable, KeyboardInterrupt):

        def append_and_fail(*args: Any, error: type[BaseException] = error) -> Any:
            append(*args)
            raise error("no answer in time")

        with monkeypatch.context() as patched:
            patched.setattr(SqliteLog, "append", append_and_fail)
            assert _exit_code(["send", "sales", str(file), "--project", str(settings.root)]) in (1, 130)
    assert (
        "Send sales.ndjson again. The log did not say whether it has the first 4 events: if so, events more"
        in capsys.readouterr().err
    )
    assert find_earlier(settings, file) == ("partial", 0)
    assert values_on_log(settings) == sorted(row.strip() for row in ROWS * 3)


def test_a_send_that_cannot_be_recorded_is_not_stopped(settings: Settings, write: Write) -> None:
    file = write("a.ndjson", b"".join(ROWS))
    settings.make_state()
    settings.place("lineage.db").write_bytes(b"no database" * 99)
    report = send(Workspace(settings), "sales", file)
    assert (report.events, report.is_recorded) == (4, False)


def test_after_a_send_that_was_killed_the_next_one_tells_what_counts_twice(
    settings: Settings, write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("sales.ndjson", b"{" + AT + b', "total": 1}\n')
    monkeypatch.chdir(settings.root)
    command = [sys.executable, "-m", "headrace", "send", "sales", str(file)]
    killed = subprocess.run(command, env=os.environ | {VARIABLE: "send.batch"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    environment = os.environ | {VARIABLE: "send.batch:1:STOP"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as other:
        until(lambda: len(values_on_log(settings)) == 2)
        assert find_earlier(settings, file) == ("running", 0)
        os.kill(other.pid, signal.SIGCONT)
        assert other.stdout is not None
        output = other.stdout.read()
    assert re.search(
        "A send of this file was cut off, .* ago, and may have sent a part of it: events more than", output
    )
    assert _exit_code(["send", "sales", str(file)]) == 0
    assert re.search("This file was sent before, .*: events more than", capsys.readouterr().out)
