"""Declarations: the values that they hold, and the errors of invalid ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import attrs
import polars as pl
import pytest
from msgspec import defstruct, field
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from headrace import (
    ByTime,
    Model,
    Outcomes,
    SeasonalNaive,
    Sklearn,
    Stratified,
    Struct,
    Tune,
    XGBoost,
    at_least,
    better_than_baseline,
    choice,
    day,
    event,
    integers,
    loguniform,
    source,
    table,
    uniform,
)
from headrace.declare.event import contract_of
from headrace.declare.reserved import EVENT_COLUMNS
from headrace.events.contracts.shape import META
from headrace.kernel.errors import ProjectError


class Click(Struct):
    at: datetime
    user: int
    note: str | None = None


def click(**options: object) -> type[Click]:
    class Own(Click):
        pass

    return event(**{"topic": "clicks", "time": "at", **options})(Own)  # type: ignore[arg-type]


def test_an_event_holds_its_contract() -> None:
    contract = contract_of(click(key="user", identity=["user", "at"], dedup_within="1d", coerce=True))
    assert contract is not None
    assert (contract.topic, contract.time, contract.key, contract.table) == ("clicks", "at", "user", "clicks")
    assert (contract.identity, contract.dedup_within) == (("user", "at"), timedelta(days=1))
    assert contract_of(Click) is None
    assert str(contract.place).startswith(__file__)


def test_a_subclass_of_an_event_class_has_no_contract() -> None:
    class Child(click()):  # type: ignore[misc]
        pass

    assert contract_of(Child) is None


def test_a_source_holds_its_types_and_encoding() -> None:
    types = {
        "a": str,
        "b": int,
        "c": float,
        "d": bool,
        "e": date,
        "f": datetime,
        "g": pl.Decimal(9, 2),
        "h": pl.Int8,
    }
    declared = source("s", "x.csv", schema=types, encoding="Latin-1")
    assert declared.schema == {
        "a": pl.String(),
        "b": pl.Int64(),
        "c": pl.Float64(),
        "d": pl.Boolean(),
        "e": pl.Date(),
        "f": pl.Datetime("us"),
        "g": pl.Decimal(9, 2),
        "h": pl.Int8(),
    }
    assert (declared.encoding, source("s", "x.csv").encoding, source("s", "x.csv").schema) == (
        "iso8859-1",
        "utf-8",
        {},
    )


def test_a_table_holds_what_it_reads_and_calls_its_function() -> None:
    clicks, files = click(), source("files", "data/files.csv")

    @table(reads=[clicks, files], partition_by=day("at", before="1d", after="2d"))
    def both(events: pl.LazyFrame, rows: pl.LazyFrame, now: datetime) -> pl.LazyFrame:
        return events

    assert both.name == "both"
    assert both.reads == (contract_of(clicks), files)
    assert both.takes_now
    assert both.partition_by is not None
    assert (both.partition_by.before, both.partition_by.after) == (1, 2)
    frame = pl.LazyFrame({"a": [1]})
    assert both(frame, frame, now=datetime.now()).collect().height == 1


@pytest.mark.parametrize("partition_by", ["at", day])
def test_what_is_no_partitioning_is_refused(partition_by: object) -> None:
    with pytest.raises(ProjectError, match="is not a partitioning"):

        @table(reads=click(), partition_by=partition_by)  # type: ignore[arg-type]
        def lost(events: pl.LazyFrame) -> pl.LazyFrame:
            return events


def test_a_model_holds_its_arguments() -> None:
    @table(reads=click())
    def labels(events: pl.LazyFrame) -> pl.LazyFrame:
        return events

    model = Model(
        "m",
        labels=labels,
        target="y",
        features=None,
        trainer=XGBoost(num_boost_round=7, max_depth=3),
        split=ByTime(validation=0.2, test=0.1, gap="30m"),
        refresh="12h",
        gate=[at_least("roc_auc", 0.7)],
    )
    assert (model.split.gap, model.refresh) == (timedelta(minutes=30), timedelta(hours=12))
    assert (model.trainer.num_boost_round, model.trainer.parameters) == (7, {"max_depth": 3})
    assert attrs.evolve(model, gate=at_least("roc_auc", 0.7)).gate == model.gate
    assert model.place.file == __file__
    evolved = attrs.evolve(model, name="other")
    assert (evolved.place.file, evolved.place.line > model.place.line) == (__file__, True)


def test_spaces_hold_their_bounds() -> None:
    assert (integers(1, 3).low, integers(1, 3).high) == (1, 3)
    assert loguniform(0.1, 1).log
    assert not uniform(0.1, 1).log
    assert choice("a", 2).values == ("a", 2)


def make_model(name: str, **options: Any) -> Model:
    @table(reads=click())
    def labels(events: pl.LazyFrame) -> pl.LazyFrame:
        return events

    options = {"labels": labels, "target": "y", "trainer": XGBoost(), **options}
    return Model(name, features=None, **options)


def declare_rowwise_of_two() -> object:
    def two(a: pl.LazyFrame, b: pl.LazyFrame) -> pl.LazyFrame:
        return a

    return table(reads=[click(), click()], rowwise=True)(two)


def declare_with_too_few_frames() -> object:
    return table(reads=[click(), click()])(lambda a: a)


def test_an_argument_with_a_default_is_no_frame() -> None:
    def scaled(events: pl.LazyFrame, *, now: datetime, scale: int = 2) -> pl.LazyFrame:
        return events

    assert table(reads=click())(scaled).takes_now


def test_the_columns_of_a_topics_table_are_reserved() -> None:
    assert frozenset(META.names) == EVENT_COLUMNS
    for name in META.names:
        fields: list[Any] = [("at", datetime), (name, int | None, None)]
        with pytest.raises(ProjectError, match=f"'{name}' is a column that Headrace adds to a topic's table"):
            event(topic="own", time="at")(defstruct("Own", fields, bases=(Struct,)))
    renamed: list[Any] = [("at", datetime), ("valid", bool, field(name="_valid"))]
    event(topic="own", time="at")(defstruct("Own", renamed, bases=(Struct,)))


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: click(topic="my clicks"), "'my clicks' is not a valid topic name"),
        (lambda: click(topic=".."), "'..' is not a valid topic name"),
        (lambda: click(topic="c" * 250), "is not a valid topic name"),
        (lambda: click(time="when"), "time='when' is not a field of Own"),
        (lambda: click(time="user"), "must be a field of type datetime"),
        (lambda: click(key="nobody"), "key='nobody'"),
        (lambda: click(identity=["at", "x"]), "identity='x'"),
        (lambda: click(dedup_within="1d"), "needs identity="),
        (lambda: click(identity=["at"], dedup_within="soon"), "'soon' is not a valid duration"),
        (lambda: click(oldest="long ago"), "oldest='long ago' is not a day or an instant with a time zone"),
        (lambda: click(oldest="1970-01-01T00:00:00"), "oldest='1970-01-01T00:00:00' is not a day or"),
        (lambda: click(oldest="0001-01-01T00:00:00+14:00"), "is not a day or an instant"),
        (lambda: event(topic="t", time="at")(int), "derives from headrace.Struct"),  # type: ignore[type-var]
        (lambda: table(reads=42)(lambda a: a), "reads=42 is not a valid input"),
        (declare_with_too_few_frames, "cannot be called with 2 frames: too many positional arguments"),
        (
            lambda: table(reads=click())(lambda a, *, scale: a),
            "cannot be called with 1 frame: missing a required",
        ),
        (
            lambda: table(reads=click())(lambda a, b, now: a),
            "cannot be called with 1 frame: missing a required",
        ),
        (lambda: table(reads=click())(lambda now: now), "cannot be called with 1 frame: multiple values for"),
        (declare_rowwise_of_two, "a rowwise table reads one"),
        (lambda: day("at", before="1h"), "must be whole days"),
        (lambda: day("at", after="x"), "after: 'x' is not a valid duration"),
        (lambda: day("at", after=7), 'after: 7 is not a valid duration: write a text such as "7d"'),  # type: ignore[arg-type]
        (lambda: day("at", before="9999999999w"), "is too long for a duration"),
        (
            lambda: day("at", before=timedelta(days=-1)),
            "before=datetime.timedelta(days=-1) must not be negative",
        ),
        (lambda: day(7), "day(7): name the column"),  # type: ignore[arg-type]
        (lambda: Outcomes(int, value="x"), "name an @event class"),
        (lambda: Outcomes(click(), value="x"), "value='x' is not a field of Own"),
        (lambda: Outcomes(click(), value="user", prediction="id"), "prediction='id' is not a field of Own"),
        (lambda: Outcomes(click(), value="user", within="0s"), "must be longer than 0"),
        (lambda: Outcomes(click(), value="user", within="soon"), "'soon' is not a valid duration"),
        (lambda: source("s", "/etc"), "must be in the project"),
        (lambda: source("a/b", "x.csv"), "'a/b' is not a valid source name"),
        (lambda: source("s", "x.csv", encoding="utf-9"), "encoding='utf-9' is not an encoding"),
        (lambda: source("s", "x.csv", encoding="base64"), "encoding='base64' is not an encoding"),
        (
            lambda: source("s", "x.csv", null_values=["NA", ""]),
            "null_values=['NA', ''] must be texts, and not empty",
        ),
        (lambda: source("s", "x.csv", null_values=[0]), "null_values=[0] must be texts"),
        (lambda: source("s", "x.csv", schema={"a": "int"}), "schema={'a': 'int'}: a file's column cannot"),
        (
            lambda: source("s", "x.csv", schema={"a": pl.List(pl.Int64)}),
            "a file's column cannot be read as this type",
        ),
        (
            lambda: source("s", "x.csv", schema={"a": pl.Datetime("ns")}),
            "a file's column cannot be read as this type",
        ),
        (
            lambda: source("s", "x.csv", schema={"a": pl.Datetime("us", "Europe/Paris")}),
            "cannot be read as this type",
        ),
        (lambda: source("s", "x.csv", schema=["a"]), "schema=['a'] is not a dict"),  # type: ignore[arg-type]
        (lambda: source("s", "../up.csv"), "must be in the project"),
        (lambda: source("s", "x.csv", delimiter=""), "delimiter='' must be one ASCII character"),
        (lambda: source("s", "x.csv", delimiter="||"), "must be one ASCII character"),
        (lambda: source("s", "x.csv", delimiter='"'), "must be one ASCII character"),
        (lambda: source("s", "x.csv", delimiter="\n"), "must be one ASCII character"),
        (lambda: source("s", "x.csv", delimiter="·"), "must be one ASCII character"),
        (lambda: source("s", "x.csv", decimal=";"), "decimal=';' must be"),
        (lambda: source("s", "x", glob="in/*.csv"), "glob='in/*.csv' is not a pattern for the names"),
        (lambda: source("s", "gs://bucket/x"), "is not an address of objects that Headrace reads"),
        (lambda: source("s", "s3://bucket"), "is not an address of objects that Headrace reads"),
        (lambda: source("s", "s3://bucket/x", revision="v1"), "git and DVC do not track the objects"),
        (lambda: ByTime(validation=0.6, test=0.6), "must be between 0 and 1"),
        (lambda: ByTime(gap="half an hour"), "'half an hour'"),
        (lambda: ByTime(gap=timedelta(minutes=-5)), "must not be negative"),
        (lambda: make_model("m", refresh="daily"), "'daily'"),
        (lambda: make_model("churn model"), "'churn model' is not a valid model name"),
        (lambda: make_model("a/b"), "'a/b' is not a valid model name"),
        (lambda: make_model(""), "'' is not a valid model name"),
        (
            lambda: make_model("m", labels="purchases"),
            "labels='purchases' of model 'm' is not a table\n  Write labels=the function under @table",
        ),
        (lambda: make_model("m", target=pl.col("y")), "of model 'm' is not the name of a column"),
        (
            lambda: make_model("m", trainer=XGBoost),
            "trainer=XGBoost of model 'm' is a class, not a trainer\n  Write trainer=XGBoost(...).",
        ),
        (lambda: make_model("m", trainer=LogisticRegression()), "of model 'm' is not a trainer"),
        (lambda: make_model("m", split="time"), "split='time' of model 'm' is not a split"),
        (lambda: make_model("m", split=ByTime), "split=ByTime of model 'm' is a class, not a split"),
        (lambda: make_model("m", tune=20), "tune=20 of model 'm' is not a search"),
        (lambda: make_model("m", baseline=3), "baseline=3 of model 'm' is not a baseline"),
        (lambda: make_model("m", outcomes=Click), "outcomes=Click of model 'm' is not a declaration of"),
        (lambda: make_model("m", gate=["auc"]), "'auc' in gate= of model 'm' is not a rule"),
        (lambda: make_model("m", missing="zero"), "missing='zero' of model 'm' is not valid"),
        (lambda: make_model("m", unavailable="zero"), "unavailable='zero' of model 'm' is not valid"),
        (lambda: make_model("m", unavailable="missing", missing="refuse"), "refuses missing features"),
        (lambda: make_model("m", threshold=1.5), "threshold=1.5 of model 'm' is not a probability"),
        (lambda: make_model("m", threshold="0.5"), "threshold='0.5' of model 'm' is not a probability"),
        (lambda: make_model("m", threshold=True), "threshold=True of model 'm' is not a probability"),
        (lambda: make_model("m", threshold=0.2, task="regression"), "declares a threshold, and its task is"),
        (lambda: Sklearn("forest"), "'forest' is not an estimator"),
        (lambda: Sklearn(LogisticRegression(), c=1), "LogisticRegression does not have the parameter 'c'"),
        (lambda: Sklearn(LogisticRegression, solvr="saga"), "'solvr'\n  Did you mean solver?"),
        (
            lambda: make_model(
                "iris",
                trainer=Sklearn(Pipeline([("clf", LogisticRegression())])),
                tune=Tune("accuracy", n_trials=None, space={"clf__D": choice(1, 2)}),
            ),
            "Pipeline does not have the parameter 'clf__D'",
        ),
        (
            lambda: Tune("accuracy", n_trials=None, space={"depth": integers(1, 3)}),
            "a grid tries every value, and the space of 'depth' is not a choice",
        ),
        (lambda: Tune("accuracy", n_trials=0), "n_trials=0 must be 1 or more"),
        (
            lambda: make_model("m", gate=[better_than_baseline("wape", 0.2)]),
            "the gate of model 'm' compares with a baseline, and it declares none",
        ),
        (
            lambda: make_model("m", baseline=SeasonalNaive("7d"), task="binary"),
            "model 'm' declares a baseline, and its task is binary",
        ),
        (
            lambda: make_model("m", baseline=SeasonalNaive("7d"), split=Stratified()),
            "its split is not by time",
        ),
        (lambda: better_than_baseline("wape", 1.5), "by=1.5 must be at least 0 and less than 1"),
    ],
)
def test_an_invalid_declaration_is_reported_with_its_place(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(ProjectError) as error:
        declare()
    assert message in str(error.value)
    assert error.value.where is not None
