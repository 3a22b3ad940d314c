"""Which task a model has: as declared, as the metrics it names, or as the values of its target."""

import polars as pl
import pytest
from tests.training.conftest import make_model

from headrace.declare.gate import at_least, at_most
from headrace.declare.model import task_of
from headrace.declare.search import Tune
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.training_set import find_task


@pytest.mark.parametrize(
    ("target", "task"),
    [
        ([0, 1, 1], "binary"),
        ([True, False], "binary"),
        ([0.0, 1.0], "binary"),
        (["a", "b"], "multiclass"),
        ([0.5, 3.0], "regression"),
    ],
)
def test_a_task_follows_from_the_values(target: list[object], task: str) -> None:
    assert find_task(make_model(), pl.Series("y", target)) == task


def test_whole_numbers_need_a_declared_task() -> None:
    counts = pl.Series("y", [3, 4])
    with pytest.raises(ProjectError, match="cannot be inferred from the target 'y'"):
        find_task(make_model(), counts)
    assert find_task(make_model(task="regression"), counts) == "regression"
    assert find_task(make_model(task="multiclass"), counts) == "multiclass"
    with pytest.raises(Refused, match="must be 0 or 1; a row has 3"):
        find_task(make_model(task="binary"), counts)


def test_a_task_follows_from_the_metrics_that_only_it_has() -> None:
    assert task_of(make_model(gate=[at_most("rmse", 3)])) == "regression"
    assert task_of(make_model(gate=[at_most("log_loss", 3)])) is None
    assert task_of(make_model(gate=[at_most("log_loss", 3)], tune=Tune("accuracy"))) == "multiclass"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "ranking"}, "task='ranking' of model 'm' is not a valid task"),
        ({"gate": [at_most("rmse", 3)], "task": "binary"}, "its task is binary"),
        ({"gate": [at_most("rmse", 3), at_least("roc_auc", 0.5)]}, "its other metrics are of another task"),
    ],
)
def test_metrics_of_another_task_are_an_error_where_they_are_declared(wrong: dict, message: str) -> None:
    with pytest.raises(ProjectError, match=message) as caught:
        make_model(**wrong)
    assert "conftest.py" in caught.value.where
