import msgspec
import pytest
from msgspec.structs import replace
from tests.features.views import HOUR, view_of_all_functions

from headrace.features.plan import (
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
    decode_plan,
    encode_plan,
)

FACTS = AsOfView("facts", ("user_id",), "facts", "time", (PlanField("x", "int64"),), HOUR, ("clicks",))
DOUBLE = OnDemandView(
    "double", (OnDemandInput("x", "facts"),), (PlanField("d", "int64"),), "row", "f", "def f(i): ...\n"
)
PLAN = FeaturePlan(
    "m",
    (EntityKey("user", "user_id", "int64"),),
    (view_of_all_functions((HOUR,)), FACTS, DOUBLE),
    (FeatureRef("double", "d", "int64"), FeatureRef("facts", "x", "int64")),
    missing={"facts__x": 0},
    labels_topics=("clicks",),
)


def test_a_plan_reads_back_the_same_and_has_the_same_digests():
    again = decode_plan(encode_plan(PLAN))
    assert again == PLAN
    assert again.digest == PLAN.digest
    assert [view.digest for view in again.views] == [view.digest for view in PLAN.views]
    with pytest.raises(msgspec.DecodeError):
        decode_plan(b"{}")


def test_a_views_digest_depends_on_its_content_alone():
    other = replace(PLAN, views=(replace(FACTS, ttl=None), *PLAN.views[:1], DOUBLE))
    assert other.digest != PLAN.digest
    assert other.view("activity").digest == PLAN.view("activity").digest
    assert other.view("facts").digest != PLAN.view("facts").digest


def test_a_lookup_returns_the_stored_views_features():
    assert PLAN.looked_up[-1] == FeatureRef("facts", "x", "int64")
    assert len(PLAN.looked_up) == len(PLAN.windowed[0].aggregations) + 1


def test_rows_at_the_moment_are_hidden_where_topics_meet():
    assert PLAN.is_strict(FACTS)
    assert not replace(PLAN, labels_topics=("orders",)).is_strict(FACTS)
