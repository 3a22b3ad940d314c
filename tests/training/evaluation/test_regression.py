"""The evaluation of regressions: scikit-learn's metrics."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from headrace.declare.metrics import METRICS
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.evaluation.regression import RegressionEvaluator

REGRESSION = RegressionEvaluator()
NUMBER = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 100.0])


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=2, max_size=60))
def test_metrics_equal_those_of_scikit_learn(drawn: list[tuple[float, float]]) -> None:
    target, values = (np.array(part) for part in zip(*drawn, strict=True))
    evaluation = REGRESSION.evaluate(target, values)
    assert list(evaluation.metrics) == list(METRICS["regression"])
    expected = {
        "rmse": math.sqrt(metrics.mean_squared_error(target, values)),
        "mae": metrics.mean_absolute_error(target, values),
        "mape": metrics.mean_absolute_percentage_error(target, values),
        "wape": sum(abs(v - t) for t, v in zip(target.tolist(), values.tolist(), strict=True))
        / max(sum(map(abs, target.tolist())), np.finfo(float).eps),
        "r2": metrics.r2_score(target, values),
    }
    assert evaluation.metrics == pytest.approx(expected, rel=1e-6, abs=1e-9)
    for name in METRICS["regression"]:
        assert REGRESSION.metric(name, target, values) == evaluation.metrics[name]
    assert evaluation.baseline["target_deviation"] == pytest.approx(target.std())


def test_a_value_that_is_not_finite_has_no_metric() -> None:
    with pytest.raises(Refused, match="1 of the model's 2 outputs"):
        REGRESSION.evaluate([1, 2], [1, math.nan])
    with pytest.raises(ProjectError, match="the task regression has no metric 'roc_auc'"):
        REGRESSION.metric("roc_auc", [1, 2], [1, 2])


@pytest.mark.parametrize(
    ("target", "outputs", "wrong"),
    [
        ([1.0, 2.0], [1e200, 2.0], "rmse, r2"),  # finite outputs whose squares are not
        ([0.0, 2.0], [1e300, 2.0], "rmse, mape, r2"),
        ([1e200, 2.0], [1e200, 2.0], "target_deviation"),
    ],
)
def test_a_metric_that_is_not_finite_is_refused(target: list[float], outputs: list[float], wrong: str) -> None:
    """In a report it would be null, which no later command could read as a number."""
    with pytest.raises(Refused, match=rf"^{wrong} would be NaN or infinite"):
        REGRESSION.evaluate(target, outputs)


def test_a_searched_metric_that_is_not_finite_is_refused() -> None:
    with pytest.raises(Refused, match=r"^rmse would be NaN or infinite"):
        REGRESSION.metric("rmse", [1.0, 2.0], [1e200, 2.0])
    assert REGRESSION.metric("mae", [1.0, 2.0], [1e200, 2.0]) == 5e199


def test_targets_are_finite_numbers() -> None:
    assert REGRESSION.find_invalid(pl.Series([1.5, math.inf])).to_list() == [math.inf]
    assert REGRESSION.find_invalid(pl.Series(["a"])).to_list() == ["a"]
    assert REGRESSION.encode(pl.Series([1, 3]), ()).tolist() == [1.0, 3.0]


def test_the_plot_shows_the_rmse() -> None:
    assert "RMSE 1" in REGRESSION.plot(REGRESSION.evaluate([1.0, 2.0], [2.0, 3.0]))
