"""The evaluation of multiclass models: scikit-learn's metrics, and each class by itself."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from headrace.declare.metrics import METRICS
from headrace.kernel.errors import ProjectError
from headrace.training.evaluation.multiclass import MulticlassEvaluator

MULTICLASS = MulticlassEvaluator()
LABELS = ("setosa", "versicolor", "virginica")


@given(st.lists(st.tuples(st.integers(0, 2), st.tuples(*[st.integers(1, 9)] * 3)), min_size=3, max_size=40))
def test_metrics_equal_those_of_scikit_learn(drawn: list[tuple[int, tuple[int, int, int]]]) -> None:
    target = np.array([0, 1, 2, *(code for code, _ in drawn)])
    weights = np.array([(1, 2, 3), (3, 2, 1), (1, 3, 2), *(row for _, row in drawn)], float)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    evaluation = MULTICLASS.evaluate(target, probabilities, LABELS)
    expected = {
        "accuracy": metrics.accuracy_score(target, predicted),
        "macro_f1": metrics.f1_score(target, predicted, average="macro", zero_division=0),
        "log_loss": metrics.log_loss(target, probabilities),
    }
    assert evaluation.metrics == pytest.approx(expected)
    assert list(evaluation.metrics) == list(METRICS["multiclass"])
    assert evaluation.confusion == metrics.confusion_matrix(target, predicted).tolist()
    precision, recall, f1, rows = metrics.precision_recall_fscore_support(target, predicted, zero_division=0)
    for code, part in enumerate(evaluation.classes):
        assert (part.label, part.rows) == (LABELS[code], rows[code])
        assert (part.precision, part.recall, part.f1) == pytest.approx(
            (precision[code], recall[code], f1[code])
        )
    for name in METRICS["multiclass"]:
        assert MULTICLASS.metric(name, target, probabilities) == evaluation.metrics[name]


def test_labels_are_encoded_by_their_sorted_order() -> None:
    target = pl.Series(["virginica", "setosa", "versicolor"])
    assert MULTICLASS.classes(target) == LABELS
    assert MULTICLASS.encode(target, LABELS).tolist() == [2.0, 0.0, 1.0]
    assert MULTICLASS.classes(pl.Series([7, 3, 7])) == (3, 7)
    assert MULTICLASS.encode(pl.Series([7, 3, 7]), (3, 7)).tolist() == [1.0, 0.0, 1.0]
    assert MULTICLASS.find_invalid(pl.Series([1.5])).to_list() == [1.5]


def test_outputs_without_a_number_for_each_class_are_an_error() -> None:
    with pytest.raises(ProjectError, match="one number for each row"):
        MULTICLASS.evaluate([0, 1, 2], [0.1, 0.2, 0.3], LABELS)


def test_the_plot_counts_each_pair_of_classes() -> None:
    evaluation = MULTICLASS.evaluate([0, 1, 2], np.eye(3), LABELS)
    assert MULTICLASS.plot(evaluation).count("<rect") == 9


def test_the_true_class_is_the_row_of_the_confusion_matrix() -> None:
    """Two setosa are taken for virginica, and no virginica for setosa: the matrix is not symmetric."""
    truth = ["setosa", "setosa", "setosa", "virginica", "versicolor"]
    predicted = ["setosa", "virginica", "virginica", "virginica", "versicolor"]
    probabilities = np.eye(3)[[LABELS.index(label) for label in predicted]]
    evaluation = MULTICLASS.evaluate([LABELS.index(label) for label in truth], probabilities, LABELS)
    assert evaluation.confusion == [[1, 0, 2], [0, 1, 0], [0, 0, 1]]
    assert evaluation.pairs == sorted(zip(truth, predicted, strict=True))
    cells = re.findall(r'<rect x="(\d+)" y="(\d+)"[^/]*/><text[^>]*>(\d+)</text>', MULTICLASS.plot(evaluation))
    across, down = (sorted({int(cell[axis]) for cell in cells}) for axis in (0, 1))
    drawn = {(down.index(int(y)), across.index(int(x))): int(count) for x, y, count in cells}
    assert drawn[0, 2] == 2  # the row of setosa, the column of virginica
    assert drawn[2, 0] == 0
