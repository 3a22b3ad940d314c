"""Training and serving compute the same matrix: both complete paths against the definition."""

import math
from datetime import UTC, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.features.offline.point_in_time import join
from headrace.features.online.lookup import Lookup
from headrace.features.online.sqlite import open_sqlite
from headrace.features.plan import (
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
)
from headrace.features.values.matrix import Encoding, Matrix
from headrace.kernel.errors import ProjectError
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.time import from_micros, now_micros

FACTS = AsOfView(
    "facts",
    ("item",),
    "facts",
    "time",
    (
        PlanField("n", "int64"),
        PlanField("x", "float64"),
        PlanField("flag", "bool"),
        PlanField("kind", "string"),
        PlanField("at", "timestamp"),
    ),
)
REQUEST = (
    PlanField("price", "float64"),
    PlanField("count", "int64"),
    PlanField("word", "string"),
    PlanField("when", "timestamp"),
    PlanField("yes", "bool"),
)
INPUTS = (
    *(OnDemandInput(field.name, "facts") for field in FACTS.features),
    *(OnDemandInput(field.name) for field in REQUEST),
)
OUTPUTS = (
    PlanField("absent", "int64"),
    PlanField("small", "int64"),
    PlanField("ratio", "float64"),
    PlanField("hour", "int64"),
    PlanField("same", "bool"),
    PlanField("word", "string"),
)
ROW = """
def one(given):
    n, x, at = given["n"], given["x"], given["facts__at"]
    return {
        "absent": sum(value is None for value in (n, x, given["flag"], given["kind"], at)),
        "small": None if n is None else n % 1000 + given["count"] % 7,
        "ratio": None if x is None else float("inf") if x == 0 else given["price"] / x,
        "hour": given["when"].hour if at is None else at.hour,
        "same": None if given["flag"] is None else given["flag"] == given["yes"],
        "word": given["kind"] if given["word"] == "" else given["word"],
    }
"""
SOURCES = {
    "row": ROW,
    "python": ROW
    + """
def all(given):
    rows = [one(dict(zip(given, row))) for row in zip(*given.values())]
    return {name: [row[name] for row in rows] for name in ("absent", "small", "ratio", "hour", "same", "word")}
""",
    "pandas": """
import numpy as np
import pandas as pd

def all(df):
    with np.errstate(all="ignore"):
        ratio = np.where(df.x == 0, np.inf, df.price / df.x)
    at = df["facts__at"].where(df["facts__at"].notna(), df.when)
    return pd.DataFrame({
        "absent": df[["n", "x", "flag", "kind", "at"]].isna().sum(axis=1),
        "small": df.n % 1000 + df["count"] % 7,
        "ratio": ratio,
        "hour": at.dt.hour,
        "same": df.flag == df.yes,
        "word": df.word.where(df.word != "", df.kind),
    })
""",
}
DEFAULTS = {
    "facts__n": 7,
    "facts__x": -0.5,
    "facts__flag": True,
    "facts__kind": "none",
    "view__ratio": 2**24 + 1,
    "view__word": "unseen",
}
LARGEST = 3.4028234663852886e38  # of float32

whole = st.one_of(st.none(), st.integers(-5, 5), st.sampled_from([2**53 + 1, 2**24 + 1, -(2**63), 2**63 - 1]))
floats = st.one_of(
    st.none(), st.floats(-100, 100), st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e39, LARGEST])
)
words = st.one_of(st.none(), st.sampled_from(["", "a", "b", "é", "never"]))
moments = st.one_of(st.none(), st.integers(0, 10**15).map(from_micros))
facts = st.tuples(whole, floats, st.one_of(st.none(), st.booleans()), words, moments)
requests = st.fixed_dictionaries(
    {
        "item": st.integers(0, 4),
        "price": st.floats(-1e308, 1e308),
        "count": st.integers(-9, 9),
        "word": st.sampled_from(["", "a", "zz"]),
        "when": st.tuples(st.integers(0, 10**15), st.sampled_from([-11, 0, 2])).map(
            lambda pair: from_micros(pair[0]).astimezone(timezone(timedelta(hours=pair[1])))
        ),
        "yes": st.booleans(),
    }
)


def plan_of(mode, missing):
    function = "one" if mode == "row" else "all"
    view = OnDemandView("view", INPUTS, OUTPUTS, mode, function, SOURCES[mode])
    features = [("facts", field) for field in FACTS.features if field.dtype != "timestamp"]
    features += [("view", field) for field in OUTPUTS]
    return FeaturePlan(
        "m",
        (EntityKey("item", "item", "int64"),),
        (FACTS, view),
        tuple(FeatureRef(name, field.name, field.dtype) for name, field in features),
        request=REQUEST,
        missing=missing,
    )


def compute_on_demand(fact, request):
    """The on-demand view's features, in plain Python."""
    n, x, flag, kind, at = fact
    x = x if x is not None and math.isfinite(x) else None
    return [
        [n, x, flag, kind, at].count(None),
        None if n is None else n % 1000 + request["count"] % 7,
        None if x is None else math.inf if x == 0 else request["price"] / x,
        (request["when"].astimezone(UTC) if at is None else at).hour,
        None if flag is None else flag == request["yes"],
        kind if request["word"] == "" else request["word"],
    ]


def expect_row(fact, request, plan, categories):
    """One row of the matrix and its missing features, by the definition alone."""
    values = [*fact[:4], *compute_on_demand(fact, request)]
    defaults = plan.missing if isinstance(plan.missing, dict) else {}
    row, missing = [], []
    for feature, value in zip(plan.features, values, strict=True):
        if value is None or (isinstance(value, float) and not abs(value) <= LARGEST):
            missing.append(feature.column)
            value = defaults.get(feature.column)
        if feature.dtype == "string":
            known = categories[feature.column]
            value = known.index(value) if value in known else None
        row.append(np.float32(np.nan if value is None else float(value)))
    return row, missing


@pytest.mark.parametrize("missing", ["model", "refuse", DEFAULTS])
@pytest.mark.parametrize("mode", ["row", "python", "pandas"])
@settings(max_examples=25, deadline=None)
@given(known=st.lists(facts, min_size=5, max_size=5), asked=st.lists(requests, min_size=1, max_size=6))
def test_training_and_serving_compute_the_same_matrix(tmp_path_factory, mode, missing, known, asked):
    plan = plan_of(mode, missing)
    now = now_micros()
    schema = {
        "item": pl.Int64,
        "time": pl.Datetime("us", "UTC"),
        "n": pl.Int64,
        "x": pl.Float64,
        "flag": pl.Boolean,
        "kind": pl.String,
        "at": pl.Datetime("us", "UTC"),
    }
    table = pl.DataFrame(
        [(item, from_micros(now - 10**7), *fact) for item, fact in enumerate(known)], schema, orient="row"
    )
    label_schema = {
        "item": pl.Int64,
        "price": pl.Float64,
        "count": pl.Int64,
        "word": pl.String,
        "when": pl.Datetime("us", "UTC"),
        "yes": pl.Boolean,
    }
    labels = pl.DataFrame(asked, label_schema).with_columns(event_timestamp=pl.lit(from_micros(now)))

    trained = join(labels, plan, lambda _: table.lazy())
    encoding = Encoding.learn(trained[:3], plan)
    seen = Matrix(plan, encoding).of_frame(trained)

    hand = [expect_row(known[request["item"]], request, plan, encoding.categories) for request in asked]
    np.testing.assert_array_equal(seen.matrix, np.array([row for row, _ in hand], np.float32))
    assert seen.matrix.dtype == np.float32
    assert Matrix(plan, encoding).missing(seen) == [names for _, names in hand]

    store = open_sqlite(tmp_path_factory.mktemp("online") / "online.db")
    store.prepare(plan)
    store.load(FACTS, table.to_arrow(), SnapshotPosition("facts", 1))
    lookup = Lookup(plan, store, encoding)
    served = lookup.features(asked, now)
    np.testing.assert_array_equal(served.matrix, seen.matrix)
    assert served.missing == [names for _, names in hand]
    text = {f.column: trained[f.column].to_list() for f in plan.features if f.dtype == "string"}
    assert repr(served.values) == repr(Matrix(plan, encoding).values(seen, text))
    for place, request in enumerate(asked):
        alone = lookup.features([request], now)
        np.testing.assert_array_equal(alone.matrix[0], seen.matrix[place])
        assert repr(alone.values[0]) == repr(served.values[place])
    store.close()


def test_text_is_encoded_by_the_values_of_the_train_part():
    plan = FeaturePlan(
        "m",
        (),
        (),
        tuple(FeatureRef("v", *field) for field in (("price", "float64"), ("kind", "string"), ("n", "int64"))),
    )
    train = pl.DataFrame(
        {"v__kind": ["b", "", None, "b"], "v__price": [1.0, None, 3.0, 4.0], "v__n": [1, 2, 3, 4]}
    )
    encoding = Encoding.learn(train, plan)
    assert encoding.categories == {"v__kind": ("", "b")}
    later = pl.DataFrame({"v__n": [9, 9, None], "v__kind": ["", "new", None], "v__price": [1.0, 2.0, None]})
    nan = np.nan
    wanted = np.array([[1, 0, 9], [2, nan, 9], [nan, nan, nan]], np.float32)
    matrix = Matrix(plan, encoding)
    np.testing.assert_array_equal(matrix.of_frame(later).matrix, wanted)
    rows = matrix.of_rows([[1.0, "", 9], [2.0, "new", 9], [None, None, None]])
    np.testing.assert_array_equal(rows.matrix, wanted)
    # An unseen text is not missing, though the model sees NaN.
    assert matrix.missing(rows) == [[], [], ["v__price", "v__kind", "v__n"]]
    # A default that stands for missing text in the train part is one of its values.
    assert Encoding.learn(
        train, FeaturePlan("m", (), (), plan.features, missing={"v__kind": "none"})
    ).categories == {"v__kind": ("", "b", "none")}


def test_infinity_is_counted_by_feature_and_incomplete_rows_are_marked():
    plan = FeaturePlan("m", (), (), (FeatureRef("v", "x", "float64"), FeatureRef("v", "n", "int64")))
    frame = pl.DataFrame(
        {"v__x": [1.0, math.inf, -math.inf, math.nan, None, 1e39], "v__n": [1, 1, 1, 1, 1, None]}
    )
    assert Matrix(plan).count_infinite(frame) == {"v__x": 3}
    assert Matrix(plan).complete(frame).to_list() == [True, False, False, False, False, False]


@pytest.mark.parametrize("dtype", ["timestamp", "list[float64]"])
def test_a_feature_that_no_matrix_can_hold_is_refused(dtype):
    with pytest.raises(ProjectError, match=f"v__x is {dtype.replace('[', '.').replace(']', '.')}"):
        Matrix(FeaturePlan("m", (), (), (FeatureRef("v", "x", dtype),)))


def test_a_whole_number_is_rounded_once_and_the_same_on_both_sides():
    plan = FeaturePlan("m", (), (), (FeatureRef("v", "n", "int64"),))
    number = 2**53 + 2**29 + 1  # int64 → float32 at once would be another number than by float64
    frame = Matrix(plan).of_frame(pl.DataFrame({"v__n": [number]}))
    rows = Matrix(plan).of_rows([[number]])
    assert frame.matrix.tobytes() == rows.matrix.tobytes() == np.float32(np.float64(number)).tobytes()
