from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.features.feast import compile, fingerprints  # noqa: A004
from headrace.features.plan import (
    LIFETIME,
    AsOfView,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    WindowedView,
    decode_plan,
    encode_plan,
)
from headrace.kernel.errors import ProjectError
from headrace.projects.project import Project

MINUTE = 60_000_000


def test_the_shop_compiles_to_a_plan(shop: Project) -> None:
    plan = compile(shop, shop.model("purchase"))
    assert decode_plan(encode_plan(plan)) == plan
    assert plan.service == shop.model("purchase").features.name
    assert [(key.name, key.join_key, key.dtype) for key in plan.entities] == [
        ("user", "user_id", "int64"),
        ("product", "product_id", "int64"),
    ]
    activity, facts, moment = plan.views
    assert isinstance(activity, WindowedView)
    assert (activity.topic, activity.rowwise) == ("user_behaviour", "clean_events")
    hops = {aggregation.name: aggregation.hop // MINUTE for aggregation in activity.aggregations}
    assert hops["views_1h"] == 5
    assert hops["views_1d"] == 60
    assert isinstance(facts, AsOfView)
    assert facts.ttl == 7 * 24 * 60 * MINUTE
    assert plan.is_strict(facts)
    assert isinstance(moment, OnDemandView)
    assert moment.mode == "row"
    assert OnDemandInput("price") in moment.inputs
    assert OnDemandInput("mean_price", "product_facts") in moment.inputs
    assert plan.features[0] == FeatureRef("user_activity", "events_1h", "int64")
    assert plan.features[-1].column == "moment__is_cart"
    assert [field.name for field in plan.request] == ["price", "event_type"]
    given = {"price": 3.0, "event_type": "cart", "mean_price": 2.0, "views": 4, "carts": 1}
    assert moment.compiled_function(given) == {"price_vs_usual": 1.5, "cart_rate": 0.25, "is_cart": 1}


def test_a_plan_runs_its_functions_without_feast(shop: Project, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(encode_plan(compile(shop, shop.model("purchase"))))
    program = f"""
import sys
from pathlib import Path
from headrace.features.plan import decode_plan
plan = decode_plan(Path({str(plan)!r}).read_bytes())
given = {{"price": 1.0, "event_type": "view", "mean_price": None, "views": 0, "carts": 0}}
print(plan.on_demand[0].compiled_function(given))
assert not {{"feast", "shop", "pandas", "polars"}} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'price_vs_usual': None, 'cart_rate': None, 'is_cart': 0}"


def test_a_comment_or_an_annotation_does_not_change_the_plan(small: Callable[..., Project]) -> None:
    plain = small()
    digest = compile(plain, plain.model("bought")).digest
    edited = small(
        ("def moment(inputs):", "def moment(inputs: dict[str, float]) -> dict[str, float]:  # now\n    # here"),
        tables=(("SCALE = 2.0", "# twice\nSCALE = 2.0  # as agreed"),),
        name="edited",
    )
    assert compile(edited, edited.model("bought")).digest == digest


def test_a_change_in_a_rowwise_tables_code_changes_the_view(small: Callable[..., Project]) -> None:
    plain = small()
    before = compile(plain, plain.model("bought"))
    edited = small(tables=(("SCALE = 2.0", "SCALE = 3.0"),), name="edited")
    after = compile(edited, edited.model("bought"))
    assert before.view("activity").digest != after.view("activity").digest
    assert before.view("facts").digest == after.view("facts").digest


def test_a_view_that_only_a_function_reads_is_in_the_plan(small: Callable[..., Project]) -> None:
    project = small(("features=[activity, facts, moment]", 'features=[moment, "activity:spent"]'))
    plan = compile(project, project.model("bought"))
    assert [view.name for view in plan.views] == ["activity", "facts", "moment"]
    assert [ref.column for ref in plan.features] == ["moment__ratio", "activity__spent"]


def test_a_service_may_take_some_features_of_a_view(small: Callable[..., Project]) -> None:
    project = small(("features=[activity, facts, moment]", 'features=[facts[["mean_price"]]]'))
    plan = compile(project, project.model("bought"))
    assert [ref.column for ref in plan.features] == ["facts__mean_price"]
    assert [field.name for field in plan.as_of[0].features] == ["clicks", "mean_price"]


def test_an_as_of_view_of_events_may_have_a_delay_and_a_windowed_one_may_not(
    small: Callable[..., Project],
) -> None:
    """Serving sees rows of an as-of view after the next build only, those of events too."""
    plain = "TableSource(item_facts)"
    project = small(
        (plain, "TableSource(scaled, delay='2h')"),
        ('Field(name="clicks", dtype=Int64)', 'Field(name="price", dtype=Float64)'),
        (', Field(name="mean_price", dtype=Float64)', ""),
        ("features=[activity, facts, moment]", "features=[facts]"),
    )
    (facts,) = compile(project, project.model("bought")).as_of
    assert facts.delay == 120 * MINUTE
    project = small(("batch_source=TableSource(scaled)", "batch_source=TableSource(scaled, delay='2h')"))
    with pytest.raises(ProjectError, match="windowed view 'activity' reads scaled with a delay"):
        compile(project, project.model("bought"))


def test_a_windowed_view_reads_a_topics_own_table(small: Callable[..., Project]) -> None:
    project = small(("batch_source=TableSource(scaled)", "batch_source=TableSource(Click)"))
    (view,) = compile(project, project.model("bought")).windowed
    assert (view.table, view.topic, view.rowwise, view.time, view.code) == ("clicks", "clicks", None, "at", "")


def test_windows_may_be_a_lifetime_or_end_before_the_moment(small: Callable[..., Project]) -> None:
    week = 'aggregations=[Aggregation(column="price", function="sum", time_window=DAY, name="week_ago"), '
    project = small(
        ("aggregations=[", week),
        ('time_window=DAY, name="spent")]', 'name="spent")], tags={"offset.week_ago": "7d"}'),
        ('schema=[Field(name="spent"', 'schema=[Field(name="week_ago", dtype=Float64), Field(name="spent"'),
    )
    (view,) = compile(project, project.model("bought")).windowed
    week_ago, spent = view.aggregations
    day = 24 * 60 * MINUTE
    assert (week_ago.window, week_ago.hop, week_ago.offset) == (day, 60 * MINUTE, 7 * day)
    assert (spent.window, spent.hop, spent.offset) == (LIFETIME, LIFETIME, 0)


def test_a_default_for_a_missing_feature_is_named_by_its_column(small: Callable[..., Project]) -> None:
    project = small(("trainer=XGBoost()", 'trainer=XGBoost(), missing={"spent": 0.0}'))
    assert compile(project, project.model("bought")).missing == {"activity__spent": 0.0}


STREAM = """activity = StreamFeatureView(name="activity", entities=[user], timestamp_field="at",
    source=PushSource(name="scaled_stream", batch_source=TableSource(scaled)),"""

WRONG = {
    "windowed, not rowwise": (
        ("batch_source=TableSource(scaled)", "batch_source=TableSource(sorted_rows)"),
        "sorted_rows, whose rows are not made one by one",
        "rowwise=True",
    ),
    "feature on a missing column": (
        ('Field(name="clicks", dtype=Int64)', 'Field(name="clix", dtype=Int64)'),
        "column 'clix', which item_facts lacks",
        "clicks, mean_price",
    ),
    "feature with the name of the time": (
        (
            'Field(name="clicks", dtype=Int64)',
            'Field(name="clicks", dtype=Int64), Field(name="event_timestamp", dtype=UnixTimestamp)',
        ),
        "feature facts:event_timestamp has the name of the view's timestamp_field",
        "a copy of the column with another name",
    ),
    "feature with the name of a mapped key": (
        ("features=[activity, facts, moment]", 'features=[facts.with_join_key_map({"item": "clicks"})]'),
        "feature facts:clicks has the name of the view's join key",
        "a copy of the column with another name",
    ),
    "aggregation on a missing column": (
        ('column="price", function="sum"', 'column="cost", function="sum"'),
        "column 'cost', which scaled lacks",
        "price",
    ),
    "unknown function": (('function="sum"', 'function="summ"'), "'summ' is not an aggregate function", "count"),
    "a lifetime with an offset": (
        ('time_window=DAY, name="spent")]', 'name="spent")], tags={"offset.spent": "7d"}'),
        "activity:spent has an offset, but no time_window",
        "remove the tag offset.spent",
    ),
    "a lifetime in steps": (
        ("time_window=DAY, ", "slide_interval=DAY, "),
        "activity:spent has a slide_interval, but no time_window",
        "remove the slide_interval",
    ),
    "an offset of another name": (
        ('name="spent")]', 'name="spent")], tags={"offset.spend": "7d"}'),
        "tag 'offset.spend' of 'activity' does not end with the name of an aggregation",
        "spent",
    ),
    "an offset that is no duration": (
        ('name="spent")]', 'name="spent")], tags={"offset.spent": "a week"}'),
        "tag offset.spent of 'activity': 'a week' is not a valid duration",
        "",
    ),
    "an offset of nothing": (
        ('name="spent")]', 'name="spent")], tags={"offset.spent": "0d"}'),
        "tag offset.spent of 'activity' is '0d', which is not between 0 and 100 years",
        "",
    ),
    "batch view with aggregations": (
        (
            STREAM,
            "activity = BatchFeatureView(name='activity', entities=[user], source=TableSource(scaled),",
        ),
        "loses its aggregations",
        "StreamFeatureView",
    ),
    "field that is not an aggregation": (
        ('schema=[Field(name="spent"', 'schema=[Field(name="more", dtype=Float64), Field(name="spent"'),
        "'more' of 'activity' is not the name of an aggregation",
        "spent",
    ),
    "aggregation without field": (
        ('schema=[Field(name="spent", dtype=Float64)]', "schema=[]"),
        "'spent' of 'activity' is not in its schema",
        "Field(name=",
    ),
    "wrong type": (
        ('Field(name="spent", dtype=Float64)', 'Field(name="spent", dtype=Int64)'),
        "declared as int64, but it is float64",
        "Field",
    ),
    "other time": (('timestamp_field="at"', 'timestamp_field="then"'), "timestamp_field='then'", "same"),
    "join key not in the table": (
        ('Entity(name="user", join_keys=["user_id"]', 'Entity(name="user", join_keys=["buyer"]'),
        "column 'buyer', which scaled lacks",
        "user_id",
    ),
    "whole numbers as the key of a text column": (
        ('join_keys=["item"], value_type=ValueType.STRING', 'join_keys=["item"], value_type=ValueType.INT64'),
        "entity 'item' is int64, but its key 'item' is string in item_facts, which feature view 'facts' reads",
        "ValueType.STRING",
    ),
    "a key that is a boolean": (
        ('join_keys=["item"], value_type=ValueType.STRING', 'join_keys=["item"], value_type=ValueType.BOOL'),
        "entity 'item' is BOOL, but its key 'item' is string",
        "ValueType.STRING",
    ),
    "entity that has no name of its own": (
        ("entities=[item]", "entities=[Entity(name='x', value_type=ValueType.INT64)]"),
        "entity 'x' of feature view 'facts' is not at the top",
        "Entity",
    ),
    "other keys of a windowed view": (
        ("features=[activity,", "features=[activity.with_join_key_map({'user_id': 'friend'}),"),
        "windowed view 'activity' is taken under other join keys",
        "rowwise=True",
    ),
    "one name for two views": (
        ("features=[activity,", "features=[activity.with_name('facts'),"),
        "'facts' stands for 'activity' and for 'facts'",
        "with_name",
    ),
    "another name of an on-demand view": (
        ("facts, moment]", "facts, moment.with_name('other')]"),
        "takes the on-demand view 'moment' under another name",
        "separate view",
    ),
    "windowed view without entity": (
        (STREAM, STREAM.replace("entities=[user]", "entities=[]")),
        "windowed view 'activity' has no entity",
        "rowwise=True",
    ),
    "windowed view with other names of columns": (
        (
            "batch_source=TableSource(scaled)",
            "batch_source=TableSource(scaled, field_mapping={'price': 'cost'})",
        ),
        "windowed view 'activity' has field_mapping",
        "rowwise=True",
    ),
    "bytes in a request": (
        ('schema=[Field(name="price", dtype=Float64)])', 'schema=[Field(name="price", dtype=Bytes)])'),
        "request field 'price' is bytes",
        "text",
    ),
    "no such view": (("features=[activity,", "features=['nothing',"), "'nothing' is not at the top", ""),
    "no such feature": (("features=[activity,", "features=['activity:no',"), "does not name a feature", ""),
    "taken twice": (("features=[activity,", "features=[activity, activity,"), "activity__spent twice", ""),
    "on-demand that is kept": (
        ('mode="python", singleton=True', 'mode="python", singleton=True, write_to_online_store=True'),
        "write_to_online_store is not supported",
        "",
    ),
    "function that reaches Feast": (
        ('return {"ratio"', 'print(activity)\n    return {"ratio"'),
        "which is Feast's",
        "plain functions and constants",
    ),
    "request field not in the labels": (
        ('schema=[Field(name="price", dtype=Float64)])', 'schema=[Field(name="budget", dtype=Float64)])'),
        "lack 'budget', a field of the request",
        "Columns of labels",
    ),
    "no service": (("features=bought_features", "features=[activity]"), "not a list", "FeatureService"),
    "default for nothing": (
        ("trainer=XGBoost()", "trainer=XGBoost(), missing={'sspent': 0.0}"),
        "names no feature",
        "activity__spent",
    ),
    "default of another kind": (
        ("trainer=XGBoost()", "trainer=XGBoost(), missing={'spent': 'abc'}"),
        "the feature is float64",
        "a number",
    ),
    "name that XGBoost refuses": (
        ('Field(name="ratio"', 'Field(name="ratio_<1"'),
        "'moment__ratio_<1' is not a valid feature name",
        "another name",
    ),
    "feature that no matrix can hold": (
        ("features=[activity, facts, moment]", "features=[activity, listed]"),
        "listed__several is list[float64]",
        "Convert it to numbers",
    ),
    "request field with a key's name": (
        (
            'schema=[Field(name="price", dtype=Float64)])',
            'schema=[Field(name="price", dtype=Float64), Field(name="user_id", dtype=Int64)])',
        ),
        "has the name of entity 'user''s key",
        "another name",
    ),
    "request field of another type than the labels": (
        ('schema=[Field(name="price", dtype=Float64)])', 'schema=[Field(name="price", dtype=String)])'),
        "is declared as string, and labels 'labels' of model 'bought' have float64",
        "the same type",
    ),
    "text target": (
        ('target="bought"', 'target="item", task="binary"'),
        "the target 'item' of model 'bought' is string; it must be int64 or float64 or bool for the task",
        "Make such a column",
    ),
}


LISTED = """
@on_demand_feature_view(sources=[facts], schema=[Field(name="several", dtype=Array(Float64))], mode="python",
    singleton=True)
def listed(inputs):
    return {"several": [1.0]}

bought_features = """


@pytest.mark.parametrize("case", WRONG)
def test_an_error_names_its_place_and_remedy(small: Callable[..., Project], case: str) -> None:
    change, what, remedy = WRONG[case]
    more = (
        [("import Float64,", "import Array, Float64,"), ("bought_features = ", LISTED)]
        if "listed" in change[1]
        else []
    )
    more += [("import Float64,", "import UnixTimestamp, Float64,")] if "UnixTimestamp" in change[1] else []
    project = small(*more, change)
    with pytest.raises(ProjectError) as raised:
        compile(project, project.model("bought"))
    assert what in raised.value.what
    assert remedy in (raised.value.remedy or "")
    file, _, line = (raised.value.where or "").rpartition(":")
    assert file.endswith("features.py")
    assert int(line) > 0


def test_an_argument_of_a_wrong_type(small: Callable[..., Project]) -> None:
    def compile_plan() -> None:  # where Feast checks types, the import fails; else compile does
        project = small(("ttl=DAY", "ttl='1d'"))
        compile(project, project.model("bought"))

    with pytest.raises(ProjectError) as raised:
        compile_plan()
    assert "features.py:" in (raised.value.where or "")


def test_a_key_that_the_labels_lack(small: Callable[..., Project]) -> None:
    project = small(
        tables=(
            ("Labels(dy.Schema):\n    user_id = dy.Int64()\n", "Labels(dy.Schema):\n"),
            ('rows.select("user_id", "item", pl.col("at")', 'rows.select("item", pl.col("at")'),
        )
    )
    with pytest.raises(ProjectError, match="lack 'user_id', the key of entity 'user'"):
        compile(project, project.model("bought"))


def test_two_objects_of_one_name(small: Callable[..., Project]) -> None:
    again = "again = Entity(name='user', value_type=ValueType.INT64)\nbought_features = "
    project = small(("bought_features = ", again))
    with pytest.raises(ProjectError, match="Entity 'user' is declared twice"):
        compile(project, project.model("bought"))


def test_feast_is_imported_without_run_time_checks() -> None:
    program = """
import headrace.features.feast, typeguard, feast
assert typeguard.typechecked.__module__.startswith("typeguard")
feast.Entity(name=3, value_type=feast.ValueType.INT64)  # typeguard would refuse it
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wrong", ["None", "float('nan')", "float('inf')", "10**400", "[1]"])
def test_a_default_that_is_not_a_value_is_refused_where_it_is_declared(
    small: Callable[..., Project], wrong: str
) -> None:
    with pytest.raises(ProjectError, match="is not valid") as raised:
        small(("trainer=XGBoost()", f"trainer=XGBoost(), missing={{'spent': {wrong}}}"))
    assert "features.py:" in (raised.value.where or "")
    with pytest.raises(ProjectError, match="missing='zero'"):
        small(("trainer=XGBoost()", "trainer=XGBoost(), missing='zero'"), name="word")


def test_a_service_may_be_written_within_its_model(small: Callable[..., Project]) -> None:
    project = small(
        ('bought_features = FeatureService(name="bought", features=[activity, facts, moment])\n', ""),
        ("features=bought_features", 'features=FeatureService(name="within", features=[facts])'),
    )
    plan = compile(project, project.model("bought"))
    assert [ref.column for ref in plan.features] == ["facts__clicks", "facts__mean_price"]
    assert "feature_service:within" in fingerprints(project)
