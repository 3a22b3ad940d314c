"""The gate, and the declarations of its rules and of searches."""

import pytest

from headrace.declare.gate import at_least, at_most, better_than_baseline, not_worse_than_champion
from headrace.declare.search import Tune, choice, integers, loguniform
from headrace.kernel.errors import ProjectError
from headrace.training.gate import judge

METRICS = {"roc_auc": 0.75, "pr_auc": 0.2, "log_loss": 0.3}


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        (at_least("roc_auc", 0.75), True),
        (at_least("roc_auc", 0.76), False),
        (at_most("log_loss", 0.3), True),
        (at_most("log_loss", 0.29), False),
        (not_worse_than_champion("roc_auc"), False),
        (not_worse_than_champion("roc_auc", 0.05), True),
        (not_worse_than_champion("pr_auc"), True),
        (not_worse_than_champion("log_loss"), False),  # less is better
        (not_worse_than_champion("log_loss", 0.1), True),
    ],
)
def test_a_rule_passes_by_its_bound(rule, passed: bool) -> None:
    champion = {"roc_auc": 0.78, "pr_auc": 0.2, "log_loss": 0.25}
    result = judge([rule], METRICS, champion)
    assert result.passed is passed
    assert result.results[0].value == METRICS[rule.metric]
    assert bool(result.failed) is not passed


def test_without_a_champion_its_rule_passes() -> None:
    result = judge([not_worse_than_champion("pr_auc"), at_least("roc_auc", 0.9)], METRICS, None)
    assert [rule.passed for rule in result.results] == [True, False]
    assert not result.passed
    assert result.failed[0].rule == "roc_auc at least 0.9"


def test_a_gate_without_rules_passes_and_an_unknown_metric_is_an_error() -> None:
    assert judge([], METRICS, None).passed
    with pytest.raises(ProjectError, match="metric 'auc' does not exist") as refused:
        at_least("auc", 0.5)
    assert __file__ in refused.value.where


def test_a_champion_that_cannot_be_evaluated_is_noted_and_the_rule_decides_as_declared() -> None:
    for unknown, passed in (("fail", False), ("pass", True)):
        rule = not_worse_than_champion("pr_auc", unknown=unknown)
        result = judge(
            [rule], METRICS, None, problem="the champion reads facts__n, which the test rows do not have"
        )
        assert result.passed is passed
        (note,) = result.notes
        assert note.endswith("not compared: the champion reads facts__n, which the test rows do not have")
    first = judge([not_worse_than_champion("pr_auc")], METRICS, None)
    assert first.passed
    assert "no champion yet" in first.notes[0]


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: at_least("rocauc", 0.7), "metric 'rocauc' does not exist"),
        (lambda: at_least("log_loss", 0.1), "less is better"),
        (lambda: at_most("roc_auc", 0.9), "more is better"),
        (lambda: at_least("roc_auc", 1.5), "between 0 and 1"),
        (lambda: at_least("roc_auc", "0.7"), "'0.7' must be a number"),
        (lambda: not_worse_than_champion("roc_auc", "0"), "tolerance='0' must be"),
        (lambda: better_than_baseline("wape", None), "by=None must be"),
        (lambda: at_most("brier", float("nan")), "has no effect"),
        (lambda: not_worse_than_champion("auc"), "metric 'auc' does not exist"),
        (lambda: not_worse_than_champion("roc_auc", -0.1), "must be 0 or more"),
        (lambda: not_worse_than_champion("roc_auc", float("nan")), "must be 0 or more"),
        (lambda: not_worse_than_champion("roc_auc", unknown="maybe"), "must be 'fail' or 'pass'"),
        (lambda: Tune("auc"), "metric 'auc' does not exist"),
        (lambda: Tune("roc_auc", n_trials=0), "must be 1 or more"),
        (lambda: Tune("roc_auc", space={"eta": choice(0.1, float("nan"))}), "holds nan"),
        (lambda: Tune("roc_auc", space={"max_depth": 3}), "3, is not a valid space"),
        (lambda: Tune("roc_auc", space={"eta": loguniform(0, 1)}), "begins at 0"),
        (lambda: Tune("roc_auc", space={"depth": integers(5, 2)}), "5 is greater than 2"),
    ],
)
def test_an_invalid_rule_or_search_is_an_error_where_it_is_declared(declare, message) -> None:
    with pytest.raises(ProjectError, match=message) as refused:
        declare()
    assert __file__ in refused.value.where
