from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.offline.facts import INSTANT, USER, facts_of, facts_view, plan_of
from tests.features.views import HOUR, events_frame, instant, view_of_all_functions

from headrace.features.offline.point_in_time import join
from headrace.features.plan import (
    AsOfView,
    FeaturePlan,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
)
from headrace.kernel.errors import HeadraceError, ProjectError


def labels_of(rows, **more):
    events_frame = pl.DataFrame(
        {
            "user_id": [r[0] for r in rows],
            "event_timestamp": [instant(r[1]) for r in rows],
            "note": range(len(rows)),
        },
        schema={"user_id": pl.Int64, "event_timestamp": INSTANT, "note": pl.Int64},
    )
    return events_frame.with_columns(pl.Series(name, values) for name, values in more.items())


def newest(facts, user, t, ttl, strict, delay=0):
    """The visible row, by the definition alone."""
    seen = [
        (time, x is not None, x or 0, y is not None, y or 0.0, x, y)
        for key, time, x, y in facts
        if key == user
        and key is not None
        and time is not None
        and (time + delay < t if strict else time + delay <= t)
        and (ttl is None or time >= t - ttl)
    ]
    return max(seen)[-2:] if seen else (None, None)


keys = st.one_of(st.none(), st.integers(1, 3))
times = st.integers(0, 12)


@settings(max_examples=200, deadline=None)
@given(
    facts=st.lists(
        st.tuples(
            keys,
            st.one_of(st.none(), times),
            st.one_of(st.none(), st.integers(0, 9)),
            st.one_of(st.none(), st.sampled_from([0.5, 1.5])),
        ),
        max_size=15,
    ),
    labels=st.lists(st.tuples(keys, times), max_size=8),
    ttl=st.one_of(st.none(), st.integers(0, 5)),
    strict=st.booleans(),
    delay=st.integers(0, 4),
)
def test_the_newest_row_within_ttl_is_seen_after_its_delay(facts, labels, ttl, strict, delay):
    delay = delay if ttl is None else min(delay, max(ttl - 1, 0))
    view = facts_view(ttl, ("clicks",), delay)
    plan = plan_of(view, labels_topics=("clicks",) if strict else ())
    joined = join(labels_of(labels), plan, lambda _: facts_of(facts))
    hand = [newest(facts, user, t, ttl, strict, delay) for user, t in labels]
    assert joined.select("facts__x", "facts__y").rows() == hand
    assert joined["note"].to_list() == list(range(len(labels)))


def test_texts_and_lists_are_those_of_the_row_that_is_seen():
    fields = (PlanField("name", "string"), PlanField("ids", "list[int64]"))
    view = AsOfView("facts", ("user_id",), "facts", "time", fields, None)
    facts = [(1, 7, "b", [2, 3]), (2, 5, None, []), (1, 2, "a", None), (2, 9, "c", [4])]
    table = pl.DataFrame(
        [(user, instant(time), *values) for user, time, *values in facts],
        {"user_id": pl.Int64, "time": INSTANT, "name": pl.String, "ids": pl.List(pl.Int64)},
        orient="row",
    )
    labels = labels_of([(2, 9), (1, 1), (1, 8), (3, 8), (2, 8), (1, 3)])
    joined = join(labels, plan_of(view), lambda _: table.lazy())
    assert joined.select("facts__name", "facts__ids").rows() == [
        ("c", [4]),
        (None, None),
        ("b", [2, 3]),
        (None, None),
        (None, []),
        ("a", None),
    ]


def test_all_kinds_of_views_together_in_the_models_order():
    activity = view_of_all_functions((HOUR,))
    moment = OnDemandView(
        "moment",
        (OnDemandInput("x", "facts"), OnDemandInput("price")),
        (PlanField("ratio", "float64"),),
        "row",
        "moment",
        "def moment(inputs):\n"
        "    x = inputs['facts__x']\n"
        "    assert x == inputs['x']\n"
        "    return {'ratio': None if x is None else inputs['price'] / x}\n",
    )
    plan = plan_of(
        activity,
        facts_view(),
        moment,
        features=(
            FeatureRef("moment", "ratio", "float64"),
            FeatureRef("activity", "count_number_60", "int64"),
            FeatureRef("facts", "x", "int64"),
        ),
        request=(PlanField("price", "float64"),),
    )
    now = 1_760_000_000_000_000
    tables = {
        "clicks": events_frame([(1, now - 5, 1, 2.0, "a", True)] * 3).lazy(),
        "facts": facts_of([(2, now, 4, 0.0)]),
    }
    labels = labels_of([(2, now), (1, now)], price=[6.0, 7.0])
    joined = join(labels.to_arrow(), plan, tables.__getitem__)
    assert joined.columns == [
        "user_id",
        "event_timestamp",
        "note",
        "price",
        "moment__ratio",
        "activity__count_number_60",
        "facts__x",
    ]
    assert joined.select(joined.columns[4:]).rows() == [(1.5, 0, 4), (None, 3, None)]


@pytest.mark.parametrize("mode", ["python", "pandas"])
def test_on_demand_functions_of_whole_columns(mode):
    body = {
        "python": "return {'d': [None if x is None else x * 2 for x in inputs['x']]}",
        "pandas": "return (inputs[['x']] * 2).rename(columns={'x': 'd'})",
    }[mode]
    doubled = OnDemandView(
        "doubled",
        (OnDemandInput("x", "facts"),),
        (PlanField("d", "int64"),),
        mode,
        "f",
        f"def f(inputs):\n    {body}\n",
    )
    plan = plan_of(facts_view(), doubled, features=(FeatureRef("doubled", "d", "int64"),))
    joined = join(labels_of([(1, 5), (2, 5)]), plan, lambda _: facts_of([(1, 1, 21, None)]))
    assert joined["doubled__d"].to_list() == [42, None]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return {}", "result lacks 'd'"),
        ("return 1 / 0", "ZeroDivisionError"),
        ("return {'d': [1]}", "1 values for 2"),
    ],
)
def test_an_on_demand_function_that_fails_is_named(body, says):
    broken = OnDemandView(
        "broken",
        (OnDemandInput("x", "facts"),),
        (PlanField("d", "int64"),),
        "python",
        "f",
        f"def f(inputs):\n    {body}\n",
    )
    plan = plan_of(facts_view(), broken)
    with pytest.raises(HeadraceError, match=says) as caught:
        join(labels_of([(1, 5), (2, 5)]), plan, lambda _: facts_of([]))
    assert caught.value.where == "broken"


def test_labels_without_a_column_are_refused():
    with pytest.raises(ProjectError, match="lack price"):
        join(
            labels_of([(1, 5)]),
            plan_of(facts_view(), request=(PlanField("price", "float64"),)),
            lambda _: facts_of([]),
        )


@pytest.mark.parametrize(
    ("column", "what"), [("time", "timestamp_field"), ("user_id", "join key"), ("y", "feature")]
)
def test_a_missing_column_is_named(column, what):
    facts = facts_of([(1, 0, 1, 1.0)]).drop(column)
    with pytest.raises(
        ProjectError, match=f"'facts' has the {what} '{column}', a column that table facts lacks"
    ):
        join(labels_of([(1, 1)]), plan_of(facts_view()), {"facts": facts}.__getitem__)


@pytest.mark.parametrize(
    ("field", "values", "says"),
    [
        ("count", [1.0, 2.7], "declared as int64, .* 2.7"),
        ("count", ["1", "2"], "declared as int64, .* '1'"),
        ("word", [1, 2], "declared as string, .* 1"),
        ("flag", [0, 2], "declared as bool, .* 2"),
        ("when", [1, 2], "declared as timestamp, .* 1"),
    ],
)
def test_labels_with_values_that_no_request_can_carry_are_refused(field, values, says):
    request = (
        PlanField("count", "int64"),
        PlanField("word", "string"),
        PlanField("flag", "bool"),
        PlanField("when", "timestamp"),
    )
    more = {"count": [1, 2], "word": ["a", None], "flag": [1.0, float("nan")], "when": [instant(1), None]}
    labels = labels_of([(1, 5), (2, 5)], **more)
    plan = plan_of(facts_view(), request=request)
    assert len(join(labels, plan, lambda _: facts_of([]))) == 2
    with pytest.raises(ProjectError, match=says):
        join(labels.with_columns(pl.Series(field, values)), plan, lambda _: facts_of([]))


def test_a_key_with_a_fraction_joins_no_other_entity():
    labels = labels_of([(1, 5)]).with_columns(user_id=pl.Series([1.9]))
    with pytest.raises(ProjectError, match=r"'user_id', a key of '\w+', is declared as int64, .* 1\.9"):
        join(labels, plan_of(facts_view()), lambda _: facts_of([(1, 1, 21, None)]))


def test_an_error_of_an_on_demand_function_names_the_label():
    view = OnDemandView(
        "share",
        (OnDemandInput("price"),),
        (PlanField("of", "float64"),),
        "row",
        "f",
        "def f(inputs):\n    return {'of': 1 / inputs['price']}\n",
    )
    plan = plan_of(facts_view(), view, request=(PlanField("price", "float64"),))
    with pytest.raises(HeadraceError, match=r"ZeroDivisionError.*'user_id': 2, 'price': 0\.0"):
        join(labels_of([(1, 5), (2, 5)], price=[1.0, 0.0]), plan, lambda _: facts_of([]))


@pytest.mark.parametrize(
    ("dtype", "values", "says"),
    [
        ("list[int64]", [[1.0], [2.5]], "2.5"),
        ("list[int64]", [["7"], []], "'7'"),
        ("list[bool]", [[1], [2]], "2"),
        ("list[float64]", [[0.5, None], None], None),
        ("list[float64]", [[1], []], None),
    ],
)
def test_list_items_that_no_request_can_carry_are_refused(dtype, values, says):
    view = OnDemandView(
        "asked",
        (OnDemandInput("ids"),),
        (PlanField("n", "int64"),),
        "row",
        "f",
        "def f(given):\n    return {'n': None if given['ids'] is None else len(given['ids'])}\n",
    )
    plan = FeaturePlan("m", (USER,), (view,), (FeatureRef("asked", "n", "int64"),), (PlanField("ids", dtype),))
    labels = labels_of([(1, HOUR), (2, HOUR)], ids=values)
    if says is None:
        lengths = [None if value is None else len(value) for value in values]
        assert join(labels, plan, {}.get)["asked__n"].to_list() == lengths
    else:
        with pytest.raises(ProjectError, match=f"'ids' is declared as {dtype[5:-1]}, .* have {says}"):
            join(labels, plan, {}.get)


@pytest.mark.parametrize(
    ("column", "values", "what"),
    [
        ("x", [0.85], "feature facts:x is declared as int64, but the column is Float64"),
        ("x", [timedelta(hours=1)], "feature facts:x is declared as int64, but the column is Duration"),
        ("y", [b"7"], "feature facts:y is declared as float64, but the column is Binary"),
        ("y", [2], None),
        ("y", pl.Series([None]), None),
        ("x", [True], None),
        ("user_id", [1.0], "the key 'user_id' of 'facts' must be a whole number or text, but is Float64"),
    ],
)
def test_a_column_of_another_type_than_its_feature_is_named(column, values, what):
    facts = facts_of([(1, HOUR, 1, 1.0)]).with_columns(pl.Series(column, values))
    labels, plan = labels_of([(1, HOUR)]), plan_of(facts_view())
    if what is None:
        assert join(labels, plan, lambda _: facts)[f"facts__{column}"].to_list() == list(values)
    else:
        with pytest.raises(ProjectError, match=what):
            join(labels, plan, lambda _: facts)
