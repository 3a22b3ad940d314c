"""The evaluation of binary models: scikit-learn's metrics, calibration, curves, and what has no metric."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from headrace.declare.metrics import METRICS, better
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.evaluation.binary import BinaryEvaluator

BINARY = BinaryEvaluator()


@st.composite
def targets_and_scores(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    """Targets with both classes, and scores of which many are equal."""
    rest = draw(st.lists(st.integers(0, 1), min_size=0, max_size=60))
    target = [0, 1, *rest]
    score = st.sampled_from([0.0, 0.1, 0.25, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1)
    return target, draw(st.lists(score, min_size=len(target), max_size=len(target)))


@given(targets_and_scores())
def test_metrics_equal_those_of_scikit_learn(drawn: tuple[list[int], list[float]]) -> None:
    target, scores = drawn
    values = BINARY.evaluate(target, scores).metrics
    assert values["roc_auc"] == pytest.approx(metrics.roc_auc_score(target, scores))
    assert values["pr_auc"] == pytest.approx(metrics.average_precision_score(target, scores))
    assert values["brier"] == pytest.approx(metrics.brier_score_loss(target, scores))
    assert values["log_loss"] == pytest.approx(metrics.log_loss(target, np.clip(scores, 1e-15, 1 - 1e-15)))
    assert list(values) == list(METRICS["binary"])
    for name in METRICS["binary"]:
        assert BINARY.metric(name, target, scores) == values[name]


def test_a_perfect_and_a_useless_model_have_the_extreme_values() -> None:
    target = np.tile([0, 1], 500)
    perfect = BINARY.evaluate(target, target).metrics
    assert (perfect["roc_auc"], perfect["pr_auc"], perfect["accuracy_at_base_rate"]) == (1, 1, 1)
    assert perfect["brier"] == 0
    useless = BINARY.evaluate(target, np.full(1000, 0.5))
    assert useless.metrics["roc_auc"] == 0.5
    assert useless.metrics["pr_auc"] == useless.base_rate == useless.baseline["base_rate"] == 0.5
    assert useless.metrics["calibration_error"] == pytest.approx(0)


def test_calibration_has_a_bin_for_each_tenth_of_the_rows() -> None:
    scores = np.linspace(0.0, 1.0, 1000)
    target = (np.arange(1000) % 2).astype(float)
    bins = BINARY.evaluate(target, scores).calibration
    assert [part.rows for part in bins] == [100] * 10
    assert [part.share for part in bins] == [0.5] * 10
    assert [part.mean_score for part in bins] == sorted(part.mean_score for part in bins)


def test_curves_begin_and_end_in_the_corners() -> None:
    curves = BINARY.evaluate([0, 1, 0, 1, 1], [0.1, 0.9, 0.4, 0.35, 0.8]).curves
    assert curves.roc[0] == (0, 0)
    assert curves.roc[-1] == (1, 1)
    assert curves.pr[-1] == (1, pytest.approx(0.6))


def test_an_unknown_metric_is_an_error() -> None:
    assert (better("roc_auc"), better("log_loss")) == ("max", "min")
    for use in (better, lambda name: BINARY.metric(name, [0, 1], [0, 1])):
        with pytest.raises(ProjectError, match="metric 'auc'"):
            use("auc")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_have_no_metric(wrong: float) -> None:
    target, scores = [1, 1, 0, 0], [wrong] * 2 + [0.1, 0.2]
    with pytest.raises(Refused, match="2 of the model's 4 outputs are NaN or infinite"):
        BINARY.evaluate(target, scores)
    for name in METRICS["binary"]:
        with pytest.raises(Refused):
            BINARY.metric(name, target, scores)
