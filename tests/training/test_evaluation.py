import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from headrace.declare.metrics import METRICS, better
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.evaluation import evaluate, metric


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    """Targets with both classes, and scores of which many are equal."""
    rest = draw(st.lists(st.integers(0, 1), min_size=0, max_size=60))
    truth = [0, 1, *rest]
    score = st.sampled_from([0.0, 0.1, 0.25, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1)
    return truth, draw(st.lists(score, min_size=len(truth), max_size=len(truth)))


@given(answers())
def test_the_metrics_are_those_of_scikit_learn(given: tuple[list[int], list[float]]) -> None:
    truth, said = given
    found = evaluate(truth, said).metrics
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, said))
    assert found["pr_auc"] == pytest.approx(metrics.average_precision_score(truth, said))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(truth, said))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, np.clip(said, 1e-15, 1 - 1e-15)))
    for name in METRICS:
        assert metric(name, truth, said) == found[name]


def test_a_perfect_and_a_useless_model() -> None:
    truth = np.tile([0, 1], 500)
    perfect = evaluate(truth, truth).metrics
    assert (perfect["roc_auc"], perfect["pr_auc"], perfect["accuracy_at_base_rate"]) == (1, 1, 1)
    assert perfect["brier"] == 0
    useless = evaluate(truth, np.full(1000, 0.5))
    assert useless.metrics["roc_auc"] == 0.5
    assert useless.metrics["pr_auc"] == useless.base_rate == 0.5
    assert useless.metrics["calibration_error"] == pytest.approx(0)


def test_calibration_is_by_tenths_of_the_rows() -> None:
    said = np.linspace(0.0, 1.0, 1000)
    truth = (np.arange(1000) % 2).astype(float)
    bins = evaluate(truth, said).calibration
    assert [one.rows for one in bins] == [100] * 10
    assert [one.share for one in bins] == [0.5] * 10
    assert [one.mean_score for one in bins] == sorted(one.mean_score for one in bins)


def test_the_curves_begin_and_end_where_they_must() -> None:
    curves = evaluate([0, 1, 0, 1, 1], [0.1, 0.9, 0.4, 0.35, 0.8]).curves
    assert curves.roc[0] == (0, 0)
    assert curves.roc[-1] == (1, 1)
    assert curves.pr[-1] == (1, pytest.approx(0.6))


def test_names_of_metrics() -> None:
    assert (better("roc_auc"), better("log_loss")) == ("max", "min")
    for use in (better, lambda name: metric(name, [0, 1], [0, 1])):
        with pytest.raises(ProjectError, match="no metric 'auc'"):
            use("auc")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_answers_that_are_not_finite_have_no_metric(wrong: float) -> None:
    target, scores = [1, 1, 0, 0], [wrong] * 2 + [0.1, 0.2]
    with pytest.raises(Refused, match="2 of the model's 4 answers are NaN or infinite"):
        evaluate(target, scores)
    for name in METRICS:
        with pytest.raises(Refused):
            metric(name, target, scores)
