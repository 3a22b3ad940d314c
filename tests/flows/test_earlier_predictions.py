"""A table of predictions that an earlier version made, which lacks the columns that were added later."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from tests.flows.logged_project import put_version
from tests.serving.small_project import fit_booster, make_project, plan_of, put_features, put_release

from headrace import log as logs
from headrace.config.settings import Settings
from headrace.declare.event import contract_of, event
from headrace.events.ingest.ingest import Ingest
from headrace.flows.models import canary, outcomes, shadows
from headrace.flows.models.predictions import find_prediction
from headrace.flows.trace.served import read_served
from headrace.kernel.ids import new_id
from headrace.serving import release as releases
from headrace.serving.as_of import replay
from headrace.serving.canary import CanaryPlan
from headrace.serving.metrics import Metrics
from headrace.serving.models import Models
from headrace.serving.prediction import TOPIC, Prediction
from headrace.serving.predictor import SpoolingPredictor
from headrace.serving.release import Arm
from headrace.workspace import Workspace

LATER = ("shadow_of", "probabilities", "error", "shared")


def make_earlier_contract() -> Any:
    """The contract of predictions without the fields that were added later."""
    fields = [(f.name, f.type) for f in msgspec.structs.fields(Prediction) if f.name not in LATER]
    struct = msgspec.defstruct("Prediction", fields, frozen=True, module=__name__)
    return contract_of(event(topic=TOPIC, time="at", identity=["id"], dedup_within="1d")(struct))


def start_canary(settings: Settings) -> None:
    before = put_release(settings, Arm(1))
    plan = CanaryPlan(new_id(), 1, 2, [0.25, 1.0], 0, 1, 0, "right", before.id)
    arms = [Arm(1, 0.75), Arm(2, 0.25, name="canary")]
    with closing(logs.open(settings.log.url)) as log:
        releases.append(log, releases.make("purchase", arms, by="test", why="test", canary=plan))


def predict(settings: Settings, users: range) -> list[Prediction]:
    instances = [{"user_id": user, "product_id": 7, "price": 1.0} for user in users]
    models, predictor = Models(settings), SpoolingPredictor(settings.place("serving", "spool"), Metrics())
    with closing(models), closing(predictor):
        return predictor.predict(models.released["purchase"], instances)


def ingest(workspace: Workspace, contract: Any, predictions: Sequence[Prediction], *left_out: str) -> None:
    records = [msgspec.to_builtins(prediction) for prediction in predictions]
    kept = [{name: record[name] for name in record if name not in left_out} for record in records]
    workspace.log.create(TOPIC)
    workspace.log.append(TOPIC, [msgspec.json.encode(record) for record in kept])
    Ingest(contract, workspace.log, workspace.lake).run(True, threading.Event())


def check_readers(workspace: Workspace, predictions: Sequence[Prediction]) -> None:
    """Checks that whatever reads predictions reads these."""
    for prediction in (predictions[0], predictions[-1]):
        read, place = find_prediction(workspace, prediction.id)
        assert (place, read.value) == ("table", prediction.value)
        assert [getattr(read, name) for name in LATER] == [None, None, None, False]
    (step,) = canary.review(workspace, "purchase").steps
    assert step.champion.requests + step.canary.requests == len({(p.at, p.arm) for p in predictions})
    assert len(replay._scan_answered(workspace.lake, "purchase").collect()) == len(predictions)
    assert sum(len(part) for _, _, part in read_served(workspace, None, 1_000)) == len(predictions)
    assert shadows._read_pairs(workspace, "purchase").is_empty()
    assert len(outcomes._read_predictions(workspace, "purchase")) == len(predictions)


def test_an_earlier_table_is_read_before_and_after_it_gets_the_later_columns(tmp_path: Path) -> None:
    settings, boosters = make_project(tmp_path / "p"), {1: fit_booster(1), -1: fit_booster(-1)}
    for version, slope in ((1, 1), (2, -1)):
        put_version(settings, boosters, version, plan_of(), slope)
    put_features(settings, plan_of(), {7: (9.5, 190)})
    start_canary(settings)
    with Workspace(settings) as workspace:
        earlier = predict(settings, range(20))
        ingest(workspace, make_earlier_contract(), earlier, *LATER)
        assert not {*LATER} & {*workspace.lake.table("headrace_predictions").scan().collect_schema()}
        check_readers(workspace, earlier)
        later = predict(settings, range(20, 40))
        ingest(workspace, contract_of(Prediction), later)
        assert {*LATER} <= {*workspace.lake.table("headrace_predictions").scan().collect_schema()}
        check_readers(workspace, earlier + later)
