"""The online store has the values of released versions, whose plans may be older than those of the project."""

from contextlib import closing
from types import SimpleNamespace

import pyarrow as pa
import pytest
from msgspec.structs import replace
from tests.serving.running import run_endpoint
from tests.serving.small_project import FACTS, fit_booster, make_project, plan_of, put_bundle, put_release
from tests.until import until

from headrace.features import online
from headrace.features.plan import AggregateFunction, Aggregation, FeatureRef, PlanField, WindowedView
from headrace.flows.build.context import BuildContext
from headrace.flows.build.pointers import ONLINE
from headrace.flows.build.stages.online import OnlineStage
from headrace.flows.project import status as status_flow
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.time import from_micros, now_micros
from headrace.serving.release import Arm
from headrace.workspace import Workspace

HOUR = 3_600_000_000
STAGE = OnlineStage(deps=(), out=ONLINE)
REQUEST = {"user_id": 1, "product_id": 7, "price": 3.5}


def old_plan():
    """A new plan object each time, because it keeps its digest."""
    return replace(plan_of(), views=(replace(FACTS),))


@pytest.fixture
def settings(tmp_path):
    """A project without models; version 1 of a model is released."""
    settings = make_project(tmp_path / "project")
    put_bundle(settings, {1: fit_booster(1)}, 1, old_plan(), slope=1)
    put_release(settings, Arm(1))
    return settings


def append_facts(settings, views):
    """Returns the snapshot."""
    at = pa.scalar(from_micros(now_micros() - HOUR), pa.timestamp("us", "UTC"))
    rows = pa.table({"product_id": [7], "event_timestamp": [at], "mean_price": [9.5], "views": [views]})
    with Workspace(settings) as workspace:
        table = workspace.lake.ensure("facts", rows.schema)
        table.overwrite(rows)
        return table.current_snapshot().id


def run_stage(settings):
    with Workspace(settings) as workspace:
        return STAGE.run(BuildContext(workspace)).what


def is_lost(settings):
    with Workspace(settings) as workspace:
        return STAGE.is_lost(BuildContext(workspace))


def look_up(settings):
    with closing(online.open(settings)) as store:
        plan = old_plan()
        result = store.lookup(plan, [{"product_id": 7}], now_micros())
        return result.rows[0], store.position(plan.stored[0])


def test_a_release_gets_the_rows_of_each_build(settings):
    first = append_facts(settings, 190)
    assert run_stage(settings) == "facts of purchase@1 1 entity"
    assert look_up(settings) == ([9.5, 190], SnapshotPosition("facts", first))
    assert not is_lost(settings)
    second = append_facts(settings, 191)
    assert run_stage(settings) == "facts of purchase@1 1 entity"
    assert look_up(settings) == ([9.5, 191], SnapshotPosition("facts", second))
    assert run_stage(settings) == "was up to date"


def test_a_release_is_filled_again_after_the_layout_of_states_has_changed(settings, monkeypatch):
    append_facts(settings, 190)
    with monkeypatch.context() as older:
        older.setattr("headrace.features.plan.views.LAYOUT", 1)
        run_stage(settings)
        (old,) = online.filled_views(settings)
    assert is_lost(settings)
    with run_endpoint(settings) as client:
        answer = client.post("/predict/purchase", json=REQUEST)
        assert answer.status_code == 503
        for probe in ("/v2/models/purchase/ready", "/v2/health/ready", "/v1/models/purchase"):
            assert client.get(probe).status_code == 503, probe
        why = client.get("/models").json()["unfilled"]["purchase"]
        assert "view 'facts' holds no values yet" in why
        assert "headrace build online" in why
        monkeypatch.setattr(status_flow, "find_up", lambda _: SimpleNamespace(predict=str(client.base_url)))
        assert status_flow._ask_endpoint(settings, status_flow.find_up(settings))[0].unfilled == {
            "purchase": why
        }
        assert run_stage(settings) == "facts of purchase@1 1 entity"
        assert client.post("/predict/purchase", json=REQUEST).json()["value"] > 0.5
        until(lambda: client.get("/v2/models/purchase/ready").status_code == 200)
        assert client.get("/models").json()["unfilled"] == {}
    assert not is_lost(settings)
    assert len(online.filled_views(settings)) == 2
    assert old.partition(" ")[0] not in {view.digest for view in old_plan().stored}


def test_a_view_that_cannot_be_filled_does_not_stop_the_build(settings, tmp_path):
    """Its function is gone, so another function's values must not be stored under its name."""
    count = Aggregation("n", "user_id", AggregateFunction("count"), HOUR, HOUR, "int64")
    clicks = WindowedView(
        "clicked",
        ("user_id",),
        "clicks",
        "clean",
        "clean",
        "at",
        (PlanField("user_id", "int64"),),
        (count,),
        "old",
    )
    plan = replace(old_plan(), views=(FACTS, clicks), features=(FeatureRef("clicked", "n", "int64"),))
    put_bundle(settings, {1: fit_booster(1)}, 2, plan, slope=1)
    put_release(settings, Arm(2))
    assert run_stage(settings) == (
        "was up to date; view facts of purchase@1 was not filled: table 'facts' does not exist in the lake; "
        "view clicked of purchase@2 was not filled: the function of its table clean was edited since"
    )
    assert online.filled_views(settings) == []
