"""On-demand functions: their inputs, and the conversion of their results."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from headrace.features.plan import OnDemandInput, OnDemandView, PlanField
from headrace.features.values.on_demand import OnDemand, OnDemandError

MOMENT = datetime(2026, 1, 1, 10, tzinfo=UTC)


def on_demand(dtype, body, mode="row", given="int64"):
    """A view `view` with one feature `out` of one input `value`."""
    source = (
        f"import pandas as pd\nimport numpy as np\ndef f(inputs):\n    value = inputs['value']\n    {body}\n"
    )
    view = OnDemandView("view", (OnDemandInput("value"),), (PlanField("out", dtype),), mode, "f", source)
    return OnDemand(view, {OnDemandInput("value"): given})


RETURNED = [
    ("int64", "3.0", 3),
    ("int64", "True", 1),
    ("int64", "np.int32(7)", 7),
    ("int64", "float('nan')", None),
    ("int64", "pd.NA", None),
    ("float64", "0", 0.0),
    ("float64", "np.float32(0.5)", 0.5),
    ("float64", "float('inf')", math.inf),
    ("float64", "pd.NaT", None),
    ("bool", "1.0", True),
    ("bool", "np.bool_(False)", False),
    ("string", "'x'", "x"),
    ("string", "None", None),
    ("timestamp", "pd.Timestamp('2026-01-01T12:00:00+02:00')", MOMENT),
    ("list[float64]", "np.array([1, 2])", [1.0, 2.0]),
    ("list[float64]", "np.array([1])", [1.0]),
]
REFUSED = [
    ("int64", "0.85"),
    ("int64", "float('inf')"),
    ("int64", "'abc'"),
    ("int64", "2**70"),
    ("int64", "np.array([1])"),
    ("float64", "10**400"),
    ("float64", "2**53 + 1"),
    ("float64", "'1.0'"),
    ("bool", "0.5"),
    ("string", "7"),
    ("timestamp", "pd.Timestamp('2026-01-01T12:00:00')"),
    ("list[int64]", "[1, 2.5]"),
    ("list[int64]", "3"),
]


@pytest.mark.parametrize(("dtype", "returned", "value"), RETURNED)
@pytest.mark.parametrize("mode", ["row", "python"])
def test_a_result_is_converted_to_its_declared_type(mode, dtype, returned, value):
    body = f"return {{'out': {returned if mode == 'row' else f'[{returned}]'}}}"
    view = on_demand(dtype, body, mode)
    for result in (view.compute_row([1])[0], view.compute_columns([[1]], 1)[0][0]):
        assert result == value
        assert type(result) is type(value)


@pytest.mark.parametrize(("dtype", "returned"), REFUSED)
@pytest.mark.parametrize("mode", ["row", "python"])
def test_a_lossy_conversion_is_an_error_that_names_the_value(mode, dtype, returned):
    body = f"return {{'out': {returned if mode == 'row' else f'[{returned}]'}}}"
    view = on_demand(dtype, body, mode)
    for call in (lambda: view.compute_row([1]), lambda: view.compute_columns([[1]], 1)):
        with pytest.raises(OnDemandError, match=f"as 'out', which is declared as {dtype[:4]}") as raised:
            call()
        assert raised.value.where == "view"


@pytest.mark.parametrize(
    ("given", "values", "body"),
    [
        ("int64", [12, None, 2**53 + 1], "return pd.DataFrame({'out': value.astype(str).str.len()})"),
        ("int64", [12, None], "return pd.DataFrame({'out': value.isna()})"),
        (
            "float64",
            [1.0, None, math.nan, math.inf],
            "return pd.DataFrame({'out': (value != value).astype(int)})",
        ),
        ("bool", [True, None], "return pd.DataFrame({'out': value.fillna(False).astype(int)})"),
        ("string", ["a", None], "return pd.DataFrame({'out': (value == 'a').astype(int)})"),
        ("timestamp", [MOMENT, None], "return pd.DataFrame({'out': value.dt.hour})"),
    ],
)
def test_a_dataframe_of_one_row_has_the_dtypes_of_many_rows(given, values, body):
    view = on_demand("int64", body, "pandas", given)
    (together,) = view.compute_columns([values], len(values))
    assert [view.compute_row([value])[0] for value in values] == together
    assert view.compute_columns([values[:1]], 1)[0] == together[:1]


def test_a_whole_number_beside_a_missing_one_is_exact_in_a_dataframe():
    view = on_demand("int64", "return pd.DataFrame({'out': value})", "pandas")
    assert view.compute_columns([[2**53 + 1, None]], 2) == [[2**53 + 1, None]]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_missing_input_is_none(value):
    assert on_demand("bool", "return {'out': value is None}", given="float64").compute_row([value]) == [True]
    python = on_demand("bool", "return {'out': [one is None for one in value]}", "python", "float64")
    assert python.compute_columns([[value, 1.0]], 2) == [[True, False]]


def test_a_timestamp_is_utc_whatever_its_offset():
    view = on_demand("int64", "return {'out': value.hour}", given="timestamp")
    assert view.compute_row([MOMENT.astimezone(timezone(timedelta(hours=2)))]) == [10]


@pytest.mark.parametrize("mode", ["row", "python", "pandas"])
@pytest.mark.parametrize("wrong", range(5))
def test_the_row_that_a_function_fails_on_is_named(mode, wrong):
    bodies = {
        "row": "return {'out': 1 // value}",
        "python": "return {'out': [1 // one for one in value]}",
        "pandas": "return pd.DataFrame({'out': [1 // int(one) for one in value]})",
    }
    values = [1] * 5
    values[wrong] = 0
    with pytest.raises(OnDemandError, match="ZeroDivisionError") as raised:
        on_demand("int64", bodies[mode], mode).compute_columns([values], 5)
    assert raised.value.row == wrong


def test_a_function_that_ends_the_process_fails_on_its_row_alone():
    view = on_demand("int64", "if value == 2: raise SystemExit\n    return {'out': value}", "row")
    with pytest.raises(OnDemandError, match="SystemExit") as raised:
        view.compute_columns([[1, 2, 3]], 3)
    assert raised.value.row == 1


def test_a_function_that_fails_only_on_several_rows_names_no_row():
    view = on_demand(
        "int64", "if len(value) > 1: raise ValueError('too many')\n    return {'out': value}", "python"
    )
    with pytest.raises(OnDemandError, match="too many") as raised:
        view.compute_columns([[1, 2, 3]], 3)
    assert raised.value.row is None


BODIES = {
    "row": "return {'out': 12 // value}",
    "python": "return {'out': [12 // one for one in value]}",
    "pandas": "return pd.DataFrame({'out': [12 // int(one) for one in value]})",
}


@pytest.mark.parametrize("mode", BODIES)
@pytest.mark.parametrize("zeros", [(), (0,), (6,), (2, 3), (0, 1, 5, 6)])
def test_the_rows_that_a_function_fails_on_do_not_stop_the_others(mode, zeros):
    values = [0 if index in zeros else index + 1 for index in range(7)]
    (column,), failures = on_demand("int64", BODIES[mode], mode).compute_valid([values], 7, limit=4)
    assert column == [None if value == 0 else 12 // value for value in values]
    assert {index: error.row for index, error in failures.items()} == {index: index for index in zeros}
    assert all("ZeroDivisionError" in error.what for error in failures.values())


@pytest.mark.parametrize("mode", BODIES)
@pytest.mark.parametrize(
    ("values", "limit", "where"), [([0, 0, 1, 0], 2, "on more than 2 rows"), ([0, 0], 1, "on every row")]
)
def test_a_function_that_fails_on_too_many_rows_is_wrong(mode, values, limit, where):
    with pytest.raises(OnDemandError, match=where):
        on_demand("int64", BODIES[mode], mode).compute_valid([values], len(values), limit)


@pytest.mark.parametrize("mode", BODIES)
def test_the_rows_of_earlier_pieces_that_a_function_failed_on_count(mode):
    view = on_demand("int64", BODIES[mode], mode)
    assert view.compute_valid([[0, 1]], 2, limit=3, before=2)[0] == [[None, 12]]
    with pytest.raises(OnDemandError, match="on more than 3 rows"):
        view.compute_valid([[0, 1]], 2, limit=3, before=3)


def test_a_value_of_another_type_stops_no_other_row():
    view = on_demand("int64", "return {'out': [one / 2 for one in value]}", "python")
    (column,), failures = view.compute_valid([[2, 3, 4]], 3, limit=100)
    assert column == [1, None, 2]
    assert list(failures) == [1]


def test_a_sorted_frame_is_matched_to_rows_by_its_index():
    view = on_demand("int64", "return inputs.sort_values('value').assign(out=inputs['value'] * 2)", "pandas")
    assert view.compute_columns([[3, 1, 2]], 3) == [[6, 2, 4]]


@pytest.mark.parametrize(
    ("mode", "body"),
    [
        ("pandas", "return inputs.rename(columns={'value': 'out'}).to_dict()"),
        ("python", "return {'out': dict(enumerate(value))}"),
        ("python", "return {'out': set(value)}"),
    ],
)
def test_a_set_is_not_a_column(mode, body):
    with pytest.raises(OnDemandError, match="out is not a column of values"):
        on_demand("int64", body, mode).compute_columns([[30, 10]], 2)


@pytest.mark.parametrize("mode", ["row", "python", "pandas"])
def test_a_function_that_changes_a_list_changes_only_its_copy(mode):
    shrink = "[value.pop()]" if mode == "row" else "[one.pop() for one in value]"
    view = on_demand(
        "list[int64]",
        f"return {{'out': {shrink}}}".replace("[one.pop()", "[[one.pop()]"),
        mode,
        given="list[int64]",
    )
    given = [1, 2]
    assert view.compute_row([given]) == [[2]]
    assert given == [1, 2]


@pytest.mark.parametrize("dtype", ["timestamp", "list[timestamp]"])
def test_a_timestamp_beyond_the_first_year_in_utc_is_refused(dtype):
    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    view = on_demand(dtype, "return {'out': value}", given="int64")
    with pytest.raises(OnDemandError, match="declared as"):
        view.compute_row([early if dtype == "timestamp" else [early]])


def test_a_list_of_timestamps_may_have_a_missing_one():
    view = on_demand("int64", "return {'out': value.index(None)}", given="list[timestamp]")
    assert view.compute_row([[MOMENT, None]]) == [1]
