"""Features that read the future: planted leaks of each kind are named, and honest features are not."""

import json
import sys
import threading
from datetime import UTC, datetime, timedelta

import attrs
import polars as pl
import pyarrow as pa
import pytest
from tests.features.views import DAY, HOUR
from tests.serving.small_project import make_project

from headrace import Model, XGBoost
from headrace import lake as lakes
from headrace import log as logs
from headrace.cli.main import main
from headrace.events.ingest.ingest import Ingest
from headrace.features.checks.future import _differ, check_future
from headrace.features.plan import (
    AggregateFunction,
    Aggregation,
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
    WindowedView,
    encode_plan,
)
from headrace.flows.build.pointers import Pointers, write_if_changed
from headrace.kernel.errors import CallError
from headrace.projects.project import load_project

EVENTS = """
from datetime import datetime
from headrace import Struct, event

@event(topic="orders", time="at")
class Order(Struct):
    at: datetime
    ordered: datetime
    user_id: int
    price: float
"""
TABLES = '''
from datetime import datetime

import polars as pl
from headrace import day, source, table
from small.orders import Order

rates = source("rates", "data/rates.csv")
FIRST = datetime(2026, 1, 5)


@table(reads=Order)
def history(orders):
    """Before and at an order: how many there were, and the price."""
    orders = orders.sort("at", "_log_offset")
    number = pl.int_range(pl.len()).over("user_id")
    return orders.select("user_id", "at", "ordered", "price", number=number)


@table(reads=Order, partition_by=day("at"))
def daily(orders):
    """A day's sum, known from the end of the day."""
    day = pl.col("at").dt.truncate("1d")
    return orders.group_by("user_id", at=day).agg(pl.col("price").sum()).with_columns(
        event_timestamp=pl.col("at") + pl.duration(days=1)
    )


@table(reads=history)
def following(orders):
    """The leak: the price of the order after this one."""
    orders = orders.sort("at")
    return orders.select("user_id", "at", next_price=pl.col("price").shift(-1).over("user_id"))


@table(reads=history)
def is_last(orders):
    """The leak: whether any order of anybody comes later. No order of the later rows changes it."""
    last = pl.col("at") == pl.col("at").max()
    is_followed = (~last).cast(pl.Int64)
    later = pl.concat_list("number", is_followed)
    return orders.select("user_id", "at", is_followed=is_followed, later=later, total=pl.len().cast(pl.Int64))


@table(reads=Order, partition_by=day("at"))
def early(orders):
    """The leak: a day's sum, said to be known from its begin."""
    day = pl.col("at").dt.truncate("1d")
    return orders.group_by("user_id", at=day).agg(pl.col("price").sum())


@table(reads=rates)
def later_rates(rates):
    """The leak: tomorrow's rate, from a file."""
    rates = rates.sort("event_timestamp")
    return rates.select("user_id", "event_timestamp", rate=pl.col("rate").shift(-1).over("user_id"))


@table(reads=history)
def labels(orders):
    """A label for each order; `final` is a field of the request that is known only later."""
    orders = orders.sort("at")
    later = pl.col("price").shift(-1).over("user_id")
    return orders.select(
        "user_id", "price", event_timestamp=pl.col("at"), final=later, bought=(later > 10).cast(pl.Int64)
    )
'''
START = datetime(2026, 1, 1, tzinfo=UTC)
PRICE, USER = PlanField("price", "float64"), EntityKey("user", "user_id", "int64")


def as_of(name, table, time, *features):
    return AsOfView(name, ("user_id",), table, time, features)


WINDOW = WindowedView(
    "window",
    ("user_id",),
    "orders",
    "orders",
    None,
    "at",
    (PRICE,),
    (
        Aggregation("spent", "price", AggregateFunction("sum"), DAY, HOUR, "float64"),
        Aggregation("last", "price", AggregateFunction("last"), DAY, HOUR, "float64"),
    ),
)


def twice(name, view, feature):
    """An on-demand view that doubles a feature, or a field of the request."""
    text = f"def {name}(given):\n    x = given['{feature}']\n    return {{'twice': x and x * 2}}\n"
    inputs = (OnDemandInput(feature, view),)
    return OnDemandView(name, inputs, (PlanField("twice", "float64"),), "row", name, text)


HONEST = (
    as_of("past", "history", "at", PRICE, PlanField("number", "int64")),
    as_of("yesterday", "daily", "event_timestamp", PRICE),
    WINDOW,
    twice("doubled", "past", "price"),
    twice("asked", None, "price"),
)
LEAKING = (
    as_of("next", "following", "at", PlanField("next_price", "float64")),
    as_of("today", "early", "at", PRICE),
    as_of("wrong_time", "history", "ordered", PRICE),
    as_of("rates", "later_rates", "event_timestamp", PlanField("rate", "float64")),
    twice("doubled_next", "next", "next_price"),
    twice("final_price", None, "final"),
)


def plan_of(*views):
    features = tuple(
        FeatureRef(view.name, field.name, field.dtype) for view in views for field in view.features
    )
    asked = {source.name for view in views if isinstance(view, OnDemandView) for source in view.inputs}
    request = tuple(PlanField(name, "float64") for name in ("price", "final") if name in asked)
    return FeaturePlan("purchase", (USER,), views, features, request, labels_topics=("orders",))


@pytest.fixture
def workplace(tmp_path):
    """A project with 240 orders of 4 users, an hour apart; its lake; and its model."""
    settings = make_project(tmp_path / "project")
    (settings.root / "small" / "orders.py").write_text(EVENTS)
    (settings.root / "small" / "tables.py").write_text(TABLES)
    (settings.root / "data").mkdir()
    lines = [
        f"{user},{START + timedelta(days=day):%F},{user * 10 + day}" for day in range(12) for user in range(4)
    ]
    (settings.root / "data" / "rates.csv").write_text("user_id,event_timestamp,rate\n" + "\n".join(lines))
    project, lake = load_project(settings, without=("feast",)), lakes.open(settings)
    log = logs.open(settings.log.url)
    log.create("orders")
    times = [START + timedelta(hours=n) for n in range(240)]
    log.append(
        "orders",
        [
            json.dumps(
                {
                    "at": at.isoformat(),
                    "ordered": (at - timedelta(days=2)).isoformat(),
                    "user_id": n % 4,
                    "price": float(n * 37 % 23),
                }
            ).encode()
            for n, at in enumerate(times)
        ],
    )
    Ingest(project.contract("orders"), log, lake).run(True, threading.Event())
    log.close()
    model = Model("purchase", labels=project.table("labels"), target="bought", features=None, trainer=XGBoost())
    return project, lake, model


def test_each_feature_that_reads_the_future_is_named_with_an_example(workplace):
    project, lake, model = workplace
    report = check_future(project, lake, model, plan_of(*HONEST, *LEAKING))
    moved = {feature.feature: feature for feature in report.moved}
    assert set(moved) == {
        "next__next_price",
        "today__price",
        "wrong_time__price",
        "rates__rate",
        "doubled_next__twice",
        "final",
    }
    following = moved["next__next_price"]
    assert 0 < following.labels < report.labels
    assert following.share == following.labels / report.labels
    at = following.label["event_timestamp"]
    number = (at - START) // timedelta(hours=1)
    assert following.label["user_id"] == number % 4
    assert following.value != following.changed
    assert any(at <= moment < at + timedelta(hours=4) for moment in report.moments)
    assert report.unchanged == []


def test_a_feature_that_no_order_of_the_later_rows_changes_is_named(workplace):
    later = as_of(
        "later", "is_last", "at", PlanField("is_followed", "int64"), PlanField("later", "list[int64]")
    )
    report = check_future(*workplace, plan_of(later, *HONEST), count=1)
    moved = {feature.feature: feature for feature in report.moved}
    assert set(moved) == {"later__is_followed", "later__later"}
    followed, listed = moved["later__is_followed"], moved["later__later"]
    assert (followed.value, followed.changed, followed.labels) == (1, 0, listed.labels)
    number = (listed.label["event_timestamp"] - START) // timedelta(hours=4)
    assert (listed.value, listed.changed) == ([number, 1], [number, 0])


@pytest.mark.parametrize("mode", ["row", "python", "pandas"])
def test_an_on_demand_function_that_fails_on_changed_rows_is_named(workplace, mode):
    total = "given['total']" if mode == "row" else "list(given['total'])[0]"
    text = f"def strict(given):\n    assert {total} == 240\n    return {{'same': given['total']}}\n"
    strict = OnDemandView(
        "strict", (OnDemandInput("total", "later"),), (PlanField("same", "int64"),), mode, "strict", text
    )
    later = as_of("later", "is_last", "at", PlanField("total", "int64"))
    report = check_future(*workplace, plan_of(later, strict, *HONEST), count=1)
    moved = {feature.feature: feature for feature in report.moved}
    assert set(moved) == {"later__total", "strict__same"}
    assert moved["strict__same"].labels == moved["later__total"].labels == report.labels > 100
    assert (moved["strict__same"].value, moved["strict__same"].changed) == (240, None)
    assert "AssertionError" in moved["strict__same"].error
    assert moved["later__total"].error is None


def test_a_table_of_which_no_row_is_left_has_no_values(workplace):
    rates = workplace[0].settings.root / "data" / "rates.csv"
    header, *lines = rates.read_text().splitlines()
    rates.write_text("\n".join([header, *(line.replace("2026-01", "2026-02") for line in lines)]))
    report = check_future(*workplace, plan_of(LEAKING[3], *HONEST), count=1)
    assert report.moved == []


def test_a_source_without_a_time_is_named_as_not_changed(workplace):
    old, new = 'rates.sort("event_timestamp")', 'rates.rename({"written": "event_timestamp"})'
    project, lake, model = edit(workplace, old, new)
    rates = project.settings.root / "data" / "rates.csv"
    rates.write_text(rates.read_text().replace("event_timestamp", "written"))
    report = check_future(project, lake, model, plan_of(LEAKING[3]), count=1)
    assert (report.moved, report.unchanged) == ([], ["source_rates"])


def test_later_rows_are_left_out_if_a_function_fails_on_shuffled_ones(workplace):
    check = """    orders = orders.sort("at")
    if orders.select((pl.col("ordered") > pl.col("at")).any()).collect().item():
        raise ValueError("ordered after it was delivered")
"""
    changed = edit(workplace, '    orders = orders.sort("at")\n', check)
    report = check_future(*changed, plan_of(LEAKING[0], *HONEST[:1]), count=1)
    assert report.left_out == report.moments
    assert [feature.feature for feature in report.moved] == ["next__next_price"]


def test_labels_of_one_moment_have_no_future_to_change(workplace):
    old, new = 'event_timestamp=pl.col("at"), final', "event_timestamp=pl.lit(FIRST), final"
    report = check_future(*edit(workplace, old, new), plan_of(*HONEST[:1]), count=1)
    assert (report.moments, report.labels, report.moved) == ([], 0, [])


def test_a_table_that_the_project_lacks_is_named(workplace):
    with pytest.raises(CallError, match="no table 'absent'"):
        check_future(*workplace, plan_of(as_of("past", "absent", "at", PRICE)))


def test_the_command_says_which_feature_moved_and_how(workplace, capsys):
    project, lake, _ = workplace
    root = project.settings.root
    model = (
        "import feast\nfrom headrace import Model, XGBoost\nfrom small.tables import labels\n"
        'purchase = Model("purchase", labels=labels, target="bought", features=None, trainer=XGBoost())\n'
    )
    (root / "small" / "models.py").write_text(model)
    write_if_changed(root / Pointers.path("plans", "purchase"), encode_plan(plan_of(LEAKING[0], HONEST[0])))
    numbers = list(range(200))
    columns = {name: [float(n * 7 % 11) for n in numbers] for name in ("next__next_price", "past__price")}
    times = pa.array([START + timedelta(hours=n) for n in numbers], pa.timestamp("us", "UTC"))
    bought = [n * 5 % 3 % 2 for n in numbers]
    rows = pa.table({"event_timestamp": times, "bought": bought, **columns, "past__number": numbers})
    lake.ensure("training_purchase", rows.schema).append(rows)
    with pytest.raises(SystemExit) as end:
        main(["check", "leakage", "purchase", "--moments", "1", "--project", str(root)])
    output = "".join(capsys.readouterr())
    assert end.value.code == 1
    assert "next__next_price reads the future: it moved for 4 labels (" in output
    assert "past__price reads" not in output


def edit(workplace, old, new):
    """The workplace after an edit of the first such text in its tables."""
    project, lake, model = workplace
    file = project.settings.root / "small" / "tables.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    for name in [name for name in sys.modules if name.split(".")[0] == "small"]:
        del sys.modules[name]
    edited = load_project(project.settings, without=("feast",))
    return edited, lake, attrs.evolve(model, labels=edited.table("labels"))


def test_only_a_difference_beyond_rounding_is_one():
    before = pl.Series([1.0, 1e300, 0.1 + 0.2, 1.0, float("nan"), float("inf"), float("inf"), None, None, 0.0])
    after = pl.Series([1.0, 1.001e300, 0.3, 1.00001, float("nan"), float("inf"), 1.0, None, 0.0, 1e-300])
    expected = [False, True, False, True, False, False, True, False, True, True]
    assert _differ(before, after).to_list() == expected
    assert _differ(pl.Series([2**60]), pl.Series([2**60 + 1])).to_list() == [True]
