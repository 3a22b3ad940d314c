from datetime import timedelta

import pytest

from headrace.features.aggregates import SPELLINGS, parse_function, result_dtype
from headrace.features.plan import AggregateFunction, hop_of
from headrace.kernel.errors import ProjectError

MINUTES, HOURS, DAYS = (timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days"))


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("count", AggregateFunction("count")),
        ("avg", AggregateFunction("mean")),
        ("variance", AggregateFunction("var")),
        ("stddev", AggregateFunction("std")),
        (" last( 10 ) ", AggregateFunction("last_n", 10)),
    ],
)
def test_parse_function_reads_names_and_parameters(text, function):
    assert parse_function(text) == function


@pytest.mark.parametrize(
    "text", ["median", "top_k", "percentile(100)", "last(0)", "last(1001)", "sum(3)", "last(n)", "", "count()"]
)
def test_an_unknown_function_is_refused_by_name(text):
    with pytest.raises(ProjectError) as caught:
        parse_function(text, where="features.py:3")
    assert repr(text) in caught.value.what
    assert caught.value.where == "features.py:3"


def test_the_remedy_names_every_function():
    with pytest.raises(ProjectError, match="count_distinct") as caught:
        parse_function("median")
    assert all(name in str(caught.value.remedy) for name in SPELLINGS)


def test_results_have_a_dtype_and_sums_need_numbers():
    assert result_dtype(AggregateFunction("sum"), "bool") == "int64"
    assert result_dtype(AggregateFunction("mean"), "int64") == "float64"
    assert result_dtype(AggregateFunction("last_n", 2), "string") == "list[string]"
    with pytest.raises(ProjectError, match="needs numbers"):
        result_dtype(AggregateFunction("sum"), "string")
    with pytest.raises(
        ProjectError, match="count_if needs a condition, true or false, but the column is int64"
    ):
        result_dtype(AggregateFunction("count_if"), "int64")


@pytest.mark.parametrize("kind", ["count", "count_distinct", "max", "last"])
def test_every_function_refuses_a_column_of_lists(kind):
    with pytest.raises(ProjectError, match=f"{kind} does not accept a column of list"):
        result_dtype(AggregateFunction(kind), "list[int64]")


@pytest.mark.parametrize(
    ("window", "options", "hop"),
    [
        (12 * DAYS, {}, DAYS),
        (12 * DAYS - MINUTES, {}, HOURS),
        (12 * HOURS, {}, HOURS),
        (12 * HOURS - MINUTES, {}, 5 * MINUTES),
        (MINUTES, {}, MINUTES),
        (DAYS, {"slide": DAYS}, HOURS),  # Feast copied the window
        (DAYS, {"slide": 2 * HOURS}, 2 * HOURS),
        (DAYS, {"slide": 2 * HOURS, "tiling": 6 * HOURS}, 6 * HOURS),
    ],
)
def test_the_hop_of_a_window(window, options, hop):
    assert hop_of(window, **options) == hop


@pytest.mark.parametrize("window", [timedelta(0), -HOURS, 5 * HOURS])
def test_a_hop_longer_than_its_window_is_refused(window):
    with pytest.raises(ProjectError, match="hop"):
        hop_of(window, tiling=6 * HOURS)
