"""The verb `why` on a prediction: its features, raw events, rows, release and lineage."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.flows.traced import PRODUCT, USER, TracedShop, make_traced_shop

from headrace import lake as lakes
from headrace import log as logs
from headrace.cli.call import Call
from headrace.cli.main import cli
from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.features.online import RowPosition
from headrace.flows.models.predictions import find_prediction
from headrace.flows.trace.why import ViewWhy, Why, why
from headrace.kernel.errors import CallError
from headrace.kernel.ids import new_id
from headrace.serving.prediction import TOPIC, Prediction
from headrace.serving.spool import Spool
from headrace.workspace import Workspace


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TracedShop:
    """The small shop, shared by the tests, which only append to it."""
    folder: Path = tmp_path_factory.mktemp("traced")
    return make_traced_shop(folder)


@pytest.fixture(scope="module")
def answer(shop: TracedShop) -> Why:
    return why(Workspace(shop.settings), shop.prediction.id)


def view(answer: Why, name: str) -> ViewWhy:
    return next(part for part in answer.views if part.name == name)


def append_copy(shop: TracedShop, **changed: Any) -> Prediction:
    """Appends a copy of the prediction with these changes and a new id to the log."""
    prediction = msgspec.structs.replace(shop.prediction, id=new_id(), **changed)
    log = logs.open(shop.settings.log.url)
    log.append(TOPIC, [msgspec.json.encode(prediction)])
    log.close()
    return prediction


def test_features_recomputed_from_the_raw_events_equal_the_served_ones(shop: TracedShop, answer: Why) -> None:
    assert answer.equal
    features = {f.name: f for part in answer.views for f in part.features}
    assert list(shop.prediction.features) == [f.column for f in shop.plan.features]
    assert set(features) == set(shop.prediction.features)
    assert all(f.equal for f in features.values())
    assert features["user_activity__events_1h"].served == 4.0
    assert features["user_activity__spent_1d"].recomputed == 20.5


def test_raw_events_are_exactly_those_of_the_user_in_the_window(shop: TracedShop, answer: Why) -> None:
    activity = view(answer, "user_activity")

    assert [e.offset for e in activity.events] == shop.offsets[::-1]
    assert activity.total == 4
    newest = activity.events[0]
    assert newest.values is not None
    assert (newest.values["user_id"], newest.values["viewed_product"]) == (USER, 11)
    assert "views_1h" in newest.features
    assert "carts_1h" not in newest.features
    counts = {f.name.removeprefix("user_activity__"): f.events for f in activity.features}
    assert (counts["views_1h"], counts["carts_1h"], counts["spent_1d"]) == (2, 1, 1)
    assert newest.time < newest.arrived_at <= shop.prediction.at + timedelta(minutes=5)


def test_listed_events_are_limited_and_counted(shop: TracedShop) -> None:
    activity = view(why(Workspace(shop.settings), shop.prediction.id, events=2), "user_activity")

    assert ([e.offset for e in activity.events], activity.total) == (shop.offsets[:1:-1], 4)


def test_as_of_view_has_its_row_and_the_origins_of_the_row(answer: Why) -> None:
    facts = view(answer, "product_facts")

    assert isinstance(facts.position, RowPosition)
    assert facts.row is not None
    assert facts.row.snapshot == facts.position.snapshot
    assert (facts.row.values["views"], facts.row.values["carts"], facts.row.values["mean_price"]) == (
        1,
        1,
        20.0,
    )
    topic, file = facts.row.origins
    assert (topic.name, topic.events, topic.keys) == ("user_behaviour", 2, ("product_id",))
    assert topic.first == topic.last == (facts.row.time - timedelta(days=1)).date()
    assert (file.kind, file.name) == ("file", "departments_file") or file.name == "departments"
    assert file.digest is not None


def test_on_demand_view_has_the_inputs_of_its_function(answer: Why) -> None:
    moment = view(answer, "moment")

    assert moment.inputs["price"] == 25.0
    assert moment.inputs["mean_price"] == 20.0
    assert {f.name: f.recomputed for f in moment.features}["moment__price_vs_usual"] == 1.25


def test_served_value_that_differs_from_the_events_is_reported(shop: TracedShop) -> None:
    features = {**shop.prediction.features, "user_activity__views_1h": 3.0}
    answer = why(Workspace(shop.settings), append_copy(shop, features=features).id)

    assert not answer.equal
    wrong = [f for part in answer.views for f in part.features if not f.equal]
    assert [(f.name, f.served, f.recomputed) for f in wrong] == [("user_activity__views_1h", 3.0, 2)]


def test_features_are_recomputed_at_the_position_of_the_prediction(shop: TracedShop) -> None:
    positions = json.loads(msgspec.json.encode(shop.prediction.positions))
    positions["user_activity"]["offsets"] = {"0": shop.offsets[1]}
    answer = why(Workspace(shop.settings), append_copy(shop, positions=positions).id)
    activity = view(answer, "user_activity")

    assert [e.offset for e in activity.events] == shop.offsets[:1]
    assert {f.name: f.recomputed for f in activity.features}["user_activity__views_1h"] == 1
    assert not answer.equal


def test_features_are_not_compared_while_events_are_not_ingested(shop: TracedShop) -> None:
    positions = {**shop.prediction.positions, "user_activity": {"kind": "stream", "offsets": {"0": 10_000}}}
    answer = why(Workspace(shop.settings), append_copy(shop, positions=positions).id)
    activity = view(answer, "user_activity")

    assert not answer.equal
    assert {f.equal for f in activity.features} == {None}
    assert "not in table user_behaviour yet" in activity.notes[0]
    assert view(answer, "product_facts").features[0].equal


def test_unknown_entity_has_no_events_and_missing_values(shop: TracedShop) -> None:
    counts = ("events", "views", "carts", "purchases", "products")
    features = {
        name: 0.0 if name.startswith("user_activity") and name.rpartition("__")[2].startswith(counts) else None
        for name in shop.prediction.features
    }
    features["moment__is_cart"] = 1.0
    row = {**shop.prediction.positions["product_facts"], "time": None}
    positions = {"user_activity": {"kind": "stream", "offsets": {}}, "product_facts": row}
    entity = {"user_id": 999, "product_id": 998}
    answer = why(
        Workspace(shop.settings), append_copy(shop, features=features, entity=entity, positions=positions).id
    )

    assert answer.equal
    assert view(answer, "user_activity").events == ()
    assert view(answer, "product_facts").row is None


def test_answer_has_version_release_and_lineage_up_to_the_topic(answer: Why) -> None:
    assert answer.release is not None
    assert answer.release.why == "the first version"
    assert answer.version.mlflow_run is not None
    origin = answer.version.origin
    assert (origin.table, origin.rows, origin.pinned) == ("product_facts", 4, True)
    assert (origin.code, origin.parameters) == ("c0de", {"num_boost_round": 7})
    assert answer.lineage.run is not None
    assert origin.run == answer.lineage.run.id
    assert answer.version.metrics == {"roc_auc": 0.81}
    nodes = [(n.dataset.kind, n.dataset.name) for n in answer.lineage.walk()]
    assert nodes[0] == ("model", "purchase@1")
    assert ("table", "product_facts") in nodes
    assert nodes[-1][0] in ("topic", "file")
    assert ("topic", "user_behaviour") in nodes


def test_answer_can_be_written_as_json(answer: Why) -> None:
    text = msgspec.json.encode(answer)

    assert json.loads(text)["prediction"]["entity"] == {"user_id": USER, "product_id": PRODUCT}


def test_features_of_an_edited_rowwise_function_are_not_compared(shop: TracedShop) -> None:
    file = shop.settings.root / "shop" / "tables.py"
    text = file.read_text()
    file.write_text(text.replace('pl.col("brand") != ""', 'pl.col("brand") != "none"'))
    try:
        edited = why(Workspace(shop.settings), shop.prediction.id)
    finally:
        file.write_text(text)
    activity = view(edited, "user_activity")
    assert {f.equal for f in activity.features} == {None}
    assert any(note.startswith("code changed: clean_events() was edited") for note in activity.notes)
    assert [e.offset for e in activity.events] == shop.offsets[::-1]
    assert {f.equal for f in view(edited, "product_facts").features} == {True}


def test_prediction_is_found_in_its_table_on_the_log_and_in_the_spool(shop: TracedShop) -> None:
    lake, log = lakes.open(shop.settings), logs.open(shop.settings.log.url)
    in_spool = msgspec.structs.replace(shop.prediction, id=new_id())
    spool = Spool(shop.settings.place("serving", "spool"))
    spool.append(msgspec.json.encode(in_spool))
    assert find_prediction(Workspace(shop.settings), shop.prediction.id)[1] == "log"
    assert find_prediction(Workspace(shop.settings), in_spool.id) == (in_spool, "spool")
    spool.close()

    contract = contract_of(Prediction)
    assert contract is not None
    Ingest(contract, log, lake).run(True, threading.Event())
    prediction, place = find_prediction(Workspace(shop.settings), shop.prediction.id)
    assert place == "table"
    assert prediction == shop.prediction
    labelled = append_copy(shop, value="cart", probabilities={"cart": 0.75, "view": 0.25})
    failed = append_copy(shop, value=None, error="feature_failed", features={}, positions={})
    Ingest(contract, log, lake).run(True, threading.Event())
    for stored in (labelled, failed):
        assert find_prediction(Workspace(shop.settings), stored.id) == (stored, "table")
    later = append_copy(shop)
    assert find_prediction(Workspace(shop.settings), later.id)[1] == "log"
    log.close()


def test_failed_prediction_has_its_error_and_no_compared_feature(shop: TracedShop) -> None:
    positions = shop.prediction.positions  # a view with positions is recomputed, although nothing was logged
    failed = append_copy(shop, value=None, error="feature_failed", features={}, positions=positions)
    answer = why(Workspace(shop.settings), failed.id)
    assert {feature.equal for part in answer.views for feature in part.features} == {None}
    assert any("failed to answer (feature_failed)" in note for note in answer.notes)
    arguments = ["--project", str(shop.settings.root), "why", failed.id]
    printed = CliRunner().invoke(cli, arguments, obj=Call()).output
    assert "purchase version 1 failed to answer at " in printed
    assert "note: the version failed to answer (feature_failed), so no feature was logged" in printed


@pytest.mark.parametrize(
    "id",
    ["nonsense", "123e4567-e89b-12d3-a456-426614174000", "01a21b5c-1767-7d6f-94e9-f8bc1cb41456", "' OR 1=1"],
)
def test_unknown_prediction_id_is_a_call_error(shop: TracedShop, id: str) -> None:
    with pytest.raises(CallError) as caught:
        why(Workspace(shop.settings), id)
    assert caught.value.remedy is not None
