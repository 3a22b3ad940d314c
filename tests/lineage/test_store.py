"""The lineage store: recorded runs, their OpenLineage events, secrets, failures and locks."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.run import Dataset, record_with, run
from headrace.lineage import Store
from headrace.lineage.event import RunRecord
from headrace.lineage.names import Names
from headrace.lineage.source_location import source_location
from headrace.projects.checkout import Checkout

TOPIC = Dataset("topic", "clicks", LogPosition("clicks", "id-1", {0: 10, 1: 4}), {"rows": 14})
SNAPSHOT = SnapshotPosition("clicks", 7)
TABLE = Dataset(
    "table",
    "clicks",
    SNAPSHOT,
    {"rows": 14, "bytes": 99, "schema": {"user": "int64", "token": "string"}, "columns": {"user": ["user"]}},
)


def record_ingest(store: Store) -> str:
    with store.recorder() as recorder, record_with(recorder), run("ingest clicks", [TOPIC]) as r:
        r.add_output(TABLE)
        r.add_facts(good=13, refused=1)
    return r.id


def test_a_run_is_kept_with_inputs_outputs_facts_and_outcome(store: Store) -> None:
    row = store.run(record_ingest(store))

    assert row is not None
    assert (row.job, row.outcome, row.facts) == ("ingest clicks", "COMPLETE", {"good": 13, "refused": 1})
    assert row.inputs == (TOPIC,)
    assert row.outputs == (TABLE,)
    assert row.ended is not None
    assert row.started <= row.ended


def test_events_conform_and_start_and_complete_have_one_run_id(
    store: Store, check_event: Callable[[dict[str, Any]], None]
) -> None:
    run_id = record_ingest(store)
    events = store.events(run_id)

    assert [e["eventType"] for e in events] == ["START", "COMPLETE"]
    assert {e["run"]["runId"] for e in events} == {run_id}
    for event in events:
        check_event(event)
    output = events[-1]["outputs"][0]
    assert output["facets"]["version"]["datasetVersion"] == "7"
    assert output["facets"]["schema"]["fields"][1] == {"name": "token", "type": "string"}
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 14
    source = output["facets"]["columnLineage"]["fields"]["user"]["inputFields"]
    assert [(field["name"], field["field"]) for field in source] == [("topic/clicks", "user")]


def test_the_schema_check_can_fail(store: Store, check_event: Callable[[dict[str, Any]], None]) -> None:
    event = store.events(record_ingest(store))[0]
    del event["run"]["facets"]["headrace_run"]["process"]

    with pytest.raises(Exception, match="process"):
        check_event(event)


def test_openlineages_own_client_reads_the_events(store: Store) -> None:
    # The client has additional rules for the addresses of producers and schemas.
    from openlineage.client.event_v2 import (
        Job,
        Run,
        RunEvent,
        RunState,
    )

    event = store.events(record_ingest(store))[-1]
    RunEvent(
        eventTime=event["eventTime"],
        producer=event["producer"],
        eventType=RunState[event["eventType"]],
        run=Run(event["run"]["runId"]),
        job=Job(event["job"]["namespace"], event["job"]["name"]),
    )


def test_a_child_names_its_parent_and_its_root(
    store: Store, check_event: Callable[[dict[str, Any]], None]
) -> None:
    with store.recorder() as recorder, record_with(recorder):  # noqa: SIM117
        with run("build") as build, run("train a") as train, run("fit a") as fit:
            pass
    event = store.events(fit.id)[0]

    check_event(event)
    parent = event["run"]["facets"]["parent"]
    assert parent["run"]["runId"] == train.id
    assert parent["job"]["name"] == "train.a"
    assert parent["root"]["run"]["runId"] == train.id
    assert store.events(train.id)[0]["run"]["facets"]["headrace_run"]["parent"] == build.id
    row = store.run(fit.id)
    assert row is not None
    assert row.parent == train.id


def test_the_name_of_a_job_does_not_depend_on_its_parent(store: Store) -> None:
    with store.recorder() as recorder, record_with(recorder):
        with run("table a") as alone:
            pass
        with run("build"), run("stage table-a"), run("table a") as in_build:
            pass

    for event in (*store.events(alone.id), *store.events(in_build.id)):
        assert event["job"]["name"] == "table.a"
        assert "parent" not in event["run"]["facets"]


def test_a_job_names_its_datasets_from_its_start_and_if_it_fails(
    store: Store, check_event: Callable[[dict[str, Any]], None]
) -> None:
    # Marquez takes an event without outputs for a job that writes nothing, and cuts its graph there.
    before = Dataset("table", "clicks", SnapshotPosition("clicks", 6), {"schema": {"user": "int64"}})
    plain_topic = Dataset("topic", "clicks")
    ids = []
    for fails in (False, True):
        with store.recorder() as recorder, record_with(recorder), contextlib.suppress(ValueError):  # noqa: SIM117
            with run("load clicks", reads=[plain_topic], writes=[before]) as r:
                ids.append(r.id)
                if fails:
                    raise ValueError
                r.add_input(TOPIC)
                r.add_output(TABLE)

    versions = []
    for event in [event for run_id in ids for event in store.events(run_id)]:
        check_event(event)
        assert [dataset["name"] for dataset in event["inputs"]] == ["topic/clicks"], event["eventType"]
        (output,) = event["outputs"]
        versions.append((event["eventType"], output["name"], output["facets"]["version"]["datasetVersion"]))
    assert versions == [
        ("START", "table/clicks", "6"),
        ("COMPLETE", "table/clicks", "7"),
        ("START", "table/clicks", "6"),
        ("FAIL", "table/clicks", "6"),
    ]
    completed, failed = map(store.run, ids)
    assert completed is not None
    assert failed is not None
    assert (completed.inputs, completed.outputs) == ((TOPIC,), (TABLE,))
    assert (failed.inputs, failed.outputs) == ((), ())


def test_a_model_that_has_no_version_yet_is_the_dataset_of_its_versions(store: Store) -> None:
    with store.recorder() as recorder, record_with(recorder):  # noqa: SIM117
        with run("register buy", writes=[Dataset("model", "buy")]) as r:
            pass
    (output,) = store.events(r.id)[-1]["outputs"]
    assert output["name"] == "model/buy"
    assert "version" not in output["facets"]


def test_a_job_that_moves_no_data_is_recorded_without_events(store: Store) -> None:
    with store.recorder() as recorder, record_with(recorder), run("build") as build:
        pass

    row = store.run(build.id)
    assert row is not None
    assert row.outcome == "COMPLETE"
    assert store.events(build.id) == []


def test_events_have_the_types_of_jobs_and_datasets(
    store: Store, check_event: Callable[[dict[str, Any]], None]
) -> None:
    with store.recorder() as recorder, record_with(recorder), run("training set buy", [TABLE]) as r:
        r.add_output(Dataset("model", "buy@3"))
    event = store.events(r.id)[-1]

    check_event(event)
    job_type = event["job"]["facets"]["jobType"]
    assert (job_type["processingType"], job_type["jobType"]) == ("BATCH", "TRAINING_SET")
    assert event["inputs"][0]["facets"]["datasetType"]["datasetType"] == "TABLE"
    assert event["outputs"][0]["facets"]["datasetType"]["datasetType"] == "MODEL"
    assert store.events(record_ingest(store))[0]["job"]["facets"]["jobType"]["processingType"] == "STREAMING"


def test_versions_of_a_model_are_one_dataset_and_unregistered_models_are_bundles(
    store: Store, check_event: Callable[[dict[str, Any]], None]
) -> None:
    metrics, params = {"roc_auc": 0.75}, {"max_depth": 3}
    with store.recorder() as recorder, record_with(recorder):
        with run("train buy") as train:
            train.add_output(Dataset("model", f"buy@{train.id}", facts={"metrics": metrics, "params": params}))
        with run("register buy", [Dataset("model", f"buy@{train.id}")]) as register:
            register.add_output(Dataset("model", "buy@3", facts={"metrics": metrics}))
        with run("release buy", [Dataset("model", "buy@2"), Dataset("model", "buy@3")]) as release:
            facts = {"version": "3", "versions": {"champion": "3", "shadow": "2"}, "metrics": metrics}
            release.add_output(Dataset("endpoint", "buy", facts=facts))

    trained, registered, released = (store.events(r.id)[-1] for r in (train, register, release))
    for event in (trained, registered, released):
        check_event(event)
    assert trained["outputs"][0]["name"] == registered["inputs"][0]["name"] == "bundle/buy"
    assert trained["outputs"][0]["facets"]["version"]["datasetVersion"] == train.id
    assert trained["outputs"][0]["facets"]["headrace_model"]["params"] == params
    assert [dataset["name"] for dataset in released["inputs"]] == ["model/buy", "model/buy"]
    model, endpoint = registered["outputs"][0], released["outputs"][0]
    assert (model["name"], model["facets"]["version"]["datasetVersion"]) == ("model/buy", "3")
    assert model["facets"]["headrace_model"]["metrics"] == metrics
    assert endpoint["facets"]["headrace_model"]["versions"] == {"champion": "3", "shadow": "2"}
    assert (endpoint["name"], endpoint["facets"]["version"]["datasetVersion"]) == ("endpoint/buy", "3")


def test_a_job_names_the_commit_of_its_checkout(
    tmp_path: Path, check_event: Callable[[dict[str, Any]], None]
) -> None:
    def git(*arguments: str) -> str:
        command = [
            "git",
            "-C",
            str(tmp_path / "repo"),
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b.c",
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    project = tmp_path / "repo" / "shop"
    project.mkdir(parents=True)
    (project / "headrace.toml").write_text("")
    git("init", "-q")
    git("remote", "add", "origin", "https://anna:s3cr3t@git.example/team/repo.git")
    git("add", ".")
    git("commit", "-qm", "first")
    store = Store(tmp_path / "lineage.db", Names("shop"), project)
    event = store.events(record_ingest(store))[0]
    store.close()

    check_event(event)
    location = event["job"]["facets"]["sourceCodeLocation"]
    commit = git("rev-parse", "HEAD")
    assert (location["type"], location["version"], location["path"]) == ("git", commit, "shop/")
    assert location["url"] == f"https://git.example/team/repo/tree/{commit}/shop"
    assert "s3cr3t" not in str(event)


@pytest.mark.parametrize("remote", ["git@git.example:team/repo.git", "ssh://git@git.example:22/team/repo"])
def test_the_address_of_a_checkout_opens_in_a_browser(remote: str) -> None:
    fields = source_location(Checkout("c0ffee", "", remote, Path("/repo")))
    assert fields["url"] == "https://git.example/team/repo/tree/c0ffee"
    local = source_location(Checkout("c0ffee", "shop/", None, Path("/repo")))
    assert local["url"] == "file:///repo/shop"


def test_failure_keeps_its_message_without_secrets(
    store: Store, check_event: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DB_PASSWORD", "hunter2-from-env")
    address = "postgresql://joe:s3cr3t@db/shop"
    facts = {"password": "pw-456", "nested": {"auth_token": "t-789", "rows": 3}}
    with store.recorder() as recorder, record_with(recorder), contextlib.suppress(ConnectionError):  # noqa: SIM117
        with run("load", [Dataset("file", address, facts={"api_key": "k-123"})]) as r:
            r.add_facts(**facts)
            raise ConnectionError(address + " says no to hunter2-from-env")
    row = store.run(r.id)

    assert row is not None
    assert row.outcome == "FAIL"
    assert row.error == "postgresql://joe:***@db/shop says no to ***"
    assert row.facts == {"nested": {"rows": 3}}
    for event in store.events(r.id):
        check_event(event)
    store.close()
    stored = b"".join(p.read_bytes() for p in store.path.parent.iterdir())
    for secret in (b"k-123", b"pw-456", b"t-789", b"hunter2-from-env", b"s3cr3t"):
        assert secret not in stored


def test_a_text_that_a_receiver_cannot_store_is_made_legible(
    store: Store, check_event: Callable[[dict[str, Any]], None]
) -> None:
    # PostgreSQL, and so Marquez, stores no NUL; a name of a file in Latin-1 has a surrogate.
    with store.recorder() as recorder, record_with(recorder), contextlib.suppress(ValueError):  # noqa: SIM117
        with run("load", [Dataset("file", "caf\udce9.csv", facts={"schema": {"a\0": "int64"}})]) as r:
            r.add_facts(seen=["\0", {"\ud800": 1}])
            raise ValueError("not valid: 'a\0b\ud800'" + "x" * 1_000_000)

    assert recorder.dropped == 0
    row = store.run(r.id)
    assert row is not None
    assert row.inputs[0].name == "caf\ufffd.csv"
    assert row.facts == {"seen": ["\ufffd", {"\ufffd": 1}]}
    assert row.error is not None
    assert row.error.startswith("not valid: 'a\ufffdb\ufffd'x")
    for event in store.events(r.id):
        check_event(event)
        text = msgspec.json.encode(event)
        assert b"\\u0000" not in text
        assert len(text) < 200_000


def test_an_interrupt_is_an_abort(store: Store) -> None:
    recorder = store.recorder()
    with pytest.raises(KeyboardInterrupt), recorder, record_with(recorder), run("long") as r:
        raise KeyboardInterrupt

    row = store.run(r.id)
    assert row is not None
    assert row.outcome == "ABORT"


def test_running_events_show_what_a_continuous_job_has_made_so_far(store: Store) -> None:
    with store.recorder() as recorder, record_with(recorder), run("ingest") as r:
        r.add_output(TABLE)
        r.report_running(every=timedelta(0))
        assert recorder.flush()
        row = store.run(r.id)
        assert row is not None
        assert (row.outcome, row.outputs) == ("RUNNING", (TABLE,))


def test_continuous_job_shows_its_latest_position(store: Store) -> None:
    with store.recorder() as recorder, record_with(recorder), run("ingest", [TOPIC]) as r:
        r.inputs[:] = [Dataset("topic", "clicks", LogPosition("clicks", "id-1", {0: 99}))]

    row = store.run(r.id)
    assert row is not None
    assert [dataset.position for dataset in row.inputs] == [LogPosition("clicks", "id-1", {0: 99})]


def test_the_producer_of_a_snapshot_is_the_run_that_made_it(store: Store) -> None:
    first = record_ingest(store)
    with store.recorder() as recorder, record_with(recorder), run("ingest clicks") as r:
        r.add_output(Dataset("table", "clicks", SnapshotPosition("clicks", 8)))

    def producer(position: SnapshotPosition | None) -> str | None:
        row = store.producer("table", "clicks", position)
        return None if row is None else row.id

    assert producer(SNAPSHOT) == first
    assert producer(None) == r.id
    assert producer(SnapshotPosition("clicks", 9)) is None


def test_runs_are_found_by_job_and_by_dataset_newest_first(store: Store) -> None:
    ids = [record_ingest(store) for _ in range(3)]
    with store.recorder() as recorder, record_with(recorder), run("other"):
        pass

    assert [r.id for r in store.runs(job="ingest clicks")] == ids[::-1]
    assert [r.id for r in store.runs(dataset=("table", "clicks"), limit=2)] == ids[:0:-1]
    assert len(store.runs()) == 4


def test_fact_that_json_cannot_hold_is_kept_as_its_repr(store: Store) -> None:
    with store.recorder() as recorder, record_with(recorder), run("odd") as r:
        r.add_facts(kind=Path)

    row = store.run(r.id)
    assert row is not None
    assert "Path" in row.facts["kind"]
    assert recorder.dropped == 0


def test_unwritable_store_fails_no_run_and_counts_dropped_events(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    store = Store(folder / "lineage.db", Names("shop"))
    with store.recorder() as recorder, record_with(recorder):
        with run("first"):
            pass
        assert recorder.flush()
        assert recorder.dropped == 2
        folder.mkdir()
        with run("second") as second:
            pass

    assert store.run(second.id) is not None
    health = store.health()
    assert health.dropped == 2
    assert health.reason is not None
    store.close()


def test_a_full_disk_is_the_reason_that_is_kept_and_later_runs_are_recorded(tmp_path: Path) -> None:
    store = Store(tmp_path / "lineage.db", Names("shop"))
    store.health()
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()

    def limit(pages: int) -> None:  # on the connection of the recorder's thread, which writes
        def write(records: list[RunRecord], dropped: int, reason: str) -> None:
            store._connection().execute(f"PRAGMA max_page_count = {pages}")
            store._write(records, dropped, reason)

        recorder._write = write

    recorder = store.recorder()
    with recorder, record_with(recorder):
        limit(pages)
        with run("large") as r:
            r.add_facts(text="x" * 1_000_000)
        assert recorder.flush()
        limit(1 << 30)
        with run("later") as later:
            pass
    assert store.run(later.id) is not None
    assert store.health().reason == "the lineage store cannot be read or written: database or disk is full"
    store.close()


def test_locked_store_does_not_block_a_run(store: Store) -> None:
    record_ingest(store)
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    recorder = store.recorder()
    with record_with(recorder), run("behind a lock") as r:
        pass  # the run ends while the store is still locked
    blocker.execute("ROLLBACK")
    blocker.close()

    assert recorder.flush()
    assert store.run(r.id) is not None


RUN_AND_EXIT = """
import os, signal, sys
from pathlib import Path
from headrace.kernel.run import record_with, run
from headrace.lineage import Store
from headrace.lineage.event import RunRecord
from headrace.lineage.names import Names

recorder = Store(Path(sys.argv[1]), Names("shop")).recorder()
with record_with(recorder), run("killed") as r:
    recorder.flush()
    if sys.argv[2] == "kill":
        print(r.id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
print(r.id, flush=True)
"""


def test_a_run_whose_process_was_killed_is_lost(store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_EXIT, str(store.path), "kill"],
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == -signal.SIGKILL
    row = store.run(done.stdout.strip())
    assert row is not None
    assert (row.outcome, row.ended) == ("LOST", None)
    assert store.health().lost == 1


def test_the_end_of_a_run_is_written_when_the_process_exits(store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_EXIT, str(store.path), "end"],
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    row = store.run(done.stdout.strip())
    assert row is not None
    assert row.outcome == "COMPLETE"


def test_only_the_owner_can_read_the_store(store: Store) -> None:
    record_ingest(store)

    assert os.stat(store.path).st_mode & 0o077 == 0
