"""The verb `shadows`: shadows beside the answers that clients received, and the noise of a copy."""

import random
import threading
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.serving.small_project import make_project_with_versions

from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.flows.models.release import parse_arm, release
from headrace.flows.models.shadows import compare_shadows
from headrace.kernel.errors import CallError
from headrace.kernel.ids import new_id
from headrace.serving.prediction import TOPIC, Prediction
from headrace.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    project = make_project_with_versions(tmp_path)
    with Workspace(project) as workspace:
        yield workspace


def predict(arm, release, value, number, shadow_of=None):
    return Prediction(
        id=new_id(),
        model="purchase",
        version=arm.version,
        plan="",
        arm=arm.name,
        shadow=arm.shadow,
        at=datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=number),
        instance=0,
        entity={"user_id": number},
        request={},
        features={},
        value=value,
        latency_ms=float(number % 10 + (10 if arm.shadow else 0)),
        missing=[],
        positions={},
        release=release.id,
        shadow_of=shadow_of,
        shared=number % 2 == 1,
    )


def test_shadows_are_compared_with_the_answers_and_with_the_noise_of_a_copy(workspace):
    new = release(workspace, "purchase", ["champion=1", "shadow=2", "shadow-copy=1"])
    assert [(arm.name, arm.shadow) for arm in new.arms] == [
        ("champion", False),
        ("shadow", True),
        ("shadow-copy", True),
    ]
    champion, shadow, copy = new.arms
    chance, records, expected = random.Random(3), [], {"shadow": [], "shadow-copy": []}
    for number in range(200):
        value = chance.random()
        answer = predict(champion, new, value, number)
        records.append(answer)
        for arm, share in ((shadow, 0.5), (copy, 0.1)):
            other = chance.random() if chance.random() < share else value
            expected[arm.name].append((value, other))
            records.append(predict(arm, new, other, number, answer.id))
    records.append(msgspec.structs.replace(records[-1], id=new_id(), value=None, error="internal"))
    workspace.log.create(TOPIC)
    workspace.log.append(TOPIC, [msgspec.json.encode(record) for record in records])
    Ingest(contract_of(Prediction), workspace.log, workspace.lake).run(True, threading.Event())
    compared = {row.arm: row for row in compare_shadows(workspace, "purchase")}
    assert compared.keys() == expected.keys()
    for name, pairs in expected.items():
        row = compared[name]
        assert (row.release, row.beside, row.predictions) == (new.id, 1, 200)
        assert (row.version, row.is_copy) == ((2, False) if name == "shadow" else (1, True))
        assert row.differ == sum(a != b for a, b in pairs) / 200
        assert row.decisions_changed == sum((a >= 0.5) != (b >= 0.5) for a, b in pairs) / 200
        assert row.mean_distance == pytest.approx(sum(abs(a - b) for a, b in pairs) / 200)
        assert (row.noise, row.decision_noise) == (
            compared["shadow-copy"].differ,
            compared["shadow-copy"].decisions_changed,
        )
        assert (row.p50_ms, row.p50_ms_beside) == (14.0, 4.0)  # those of even numbers
    assert 0 < compared["shadow"].noise < compared["shadow"].differ


def test_without_a_prediction_of_a_shadow_the_remedy_is_named(workspace):
    with pytest.raises(CallError, match="no prediction of a shadow") as caught:
        compare_shadows(workspace, "purchase")
    assert caught.value.remedy == "headrace release purchase shadow=VERSION"
    with pytest.raises(CallError, match="'no_such' does not exist"):
        compare_shadows(workspace, "no_such")


def test_a_shadow_has_no_share():
    assert parse_arm("shadow-copy=3") == ("shadow-copy", 3, None)
    with pytest.raises(CallError, match="a shadow has no share"):
        parse_arm("shadow-copy=3:0.1")
