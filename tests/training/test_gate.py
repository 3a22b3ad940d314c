import pytest

from headrace.declare.gate import at_least, at_most, not_worse_than_champion
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
def test_a_rule(rule, passed: bool) -> None:
    champion = {"roc_auc": 0.78, "pr_auc": 0.2, "log_loss": 0.25}
    verdict = judge([rule], METRICS, champion)
    assert verdict.passed is passed
    assert verdict.results[0].value == METRICS[rule.metric]
    assert bool(verdict.failed) is not passed


def test_the_first_version_has_no_champion_to_fear() -> None:
    verdict = judge([not_worse_than_champion("pr_auc"), at_least("roc_auc", 0.9)], METRICS, None)
    assert [one.passed for one in verdict.results] == [True, False]
    assert not verdict.passed
    assert verdict.failed[0].rule == "roc_auc at least 0.9"


def test_no_rules_and_a_wrong_one() -> None:
    assert judge([], METRICS, None).passed
    with pytest.raises(ProjectError, match="no metric 'auc'"):
        judge([at_least("auc", 0.5)], METRICS, None)
