"""The verb `check skew`: logged predictions beside what a training set made now has for their moments."""

import json
import re
import threading
from datetime import UTC, datetime, timedelta

import msgspec
import pyarrow as pa
import pytest
from tests.serving.small_project import make_project, plan_of, put_bundle

from headrace import lake as lakes
from headrace import log as logs
from headrace.cli.main import main
from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.kernel.ids import new_id
from headrace.kernel.time import micros
from headrace.serving.prediction import TOPIC, Prediction

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC).replace(microsecond=0)
FIRST, SECOND = NOW - 50 * HOUR, NOW - 26 * HOUR
PLAN = plan_of()


@pytest.fixture
def settings(tmp_path):
    """A project with two rows of product 7, a day apart, and a version 1 of its model."""
    settings = make_project(tmp_path / "project")
    put_bundle(settings, {1: b"", 2: b""}, 1, PLAN, slope=1)
    rows = pa.table(
        {
            "product_id": [7, 7],
            "event_timestamp": pa.array([FIRST, SECOND], pa.timestamp("us", "UTC")),
            "mean_price": [2.5, 4.0],
            "views": [10, 20],
        }
    )
    lakes.open(settings).ensure("facts", rows.schema).append(rows)
    return settings


def predict(settings, *served):
    """Ingests a prediction of product 7 for each moment, and the row that it was served. Returns their ids."""
    snapshot = lakes.open(settings).table("facts").current_snapshot()
    predictions = [
        Prediction(
            id=new_id(),
            model="purchase",
            version=1,
            plan=PLAN.digest,
            arm="champion",
            shadow=False,
            at=at,
            instance=0,
            entity={"user_id": 1, "product_id": 7},
            request={"price": 1.0},
            features={"facts__mean_price": price, "facts__views": views},
            value=0.5,
            latency_ms=1.0,
            missing=[],
            positions={"facts": {"kind": "row", "snapshot": snapshot.id, "time": micros(time)}},
            release="",
        )
        for at, time, price, views in served
    ]
    log = logs.open(settings.log.url)
    log.create(TOPIC)
    log.append(TOPIC, [msgspec.json.encode(prediction) for prediction in predictions])
    Ingest(contract_of(Prediction), log, lakes.open(settings)).run(True, threading.Event())
    log.close()
    return [prediction.id for prediction in predictions]


@pytest.fixture
def run(settings, capsys):
    """Runs the verb, and returns its exit code and its output."""

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["check", "skew", *arguments, "--project", str(settings.root)])
        return end.value.code, "".join(capsys.readouterr())

    return call


def test_equal_predictions_are_counted_and_exit_with_0(settings, run):
    predict(settings, (NOW - HOUR, SECOND, 4.0, 20.0), (NOW - 30 * HOUR, FIRST, 2.5, 10.0))
    code, output = run("purchase")
    assert code == 0
    assert re.search(r"purchase@1 +facts +2 +100.0%", output)
    assert len(output.splitlines()) == 2


def test_a_row_that_was_not_yet_built_is_named_with_the_delay_that_hides_it(settings, run):
    """The second row is an hour old at the prediction that was served the first one."""
    _, late = predict(settings, (SECOND - HOUR, FIRST, 2.5, 10.0), (SECOND + HOUR, FIRST, 2.5, 10.0))
    code, output = run()
    assert code == 1
    assert re.search(r"purchase@1 +facts +2 +50.0% +1 table not yet built", output)
    assert output.splitlines()[2:] == [
        f"  purchase@1 {late} facts__mean_price: served 2.5, in training 4.0: table not yet built",
        '  facts: with delay="3601s" (now 0 s), 2 of 2 predictions see the row that was served',
    ]
    code, output = run("--json")
    report = json.loads(output)["purchase@1"]
    assert (code, report["predictions"], report["equal"]) == (1, 2, 1)
    assert report["views"]["facts"]["reasons"] == {"table not yet built": 1}
    assert re.search(r"purchase@1 +facts +1 +0.0%", run("--limit", "1")[1])  # the newest one


def test_without_predictions_the_verb_says_how_to_get_them(run):
    code, output = run("purchase")
    assert code == 2
    assert "no prediction of model 'purchase' has been ingested yet" in output
    assert "headrace ingest --until-end" in output
