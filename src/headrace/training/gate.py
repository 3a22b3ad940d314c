"""The gate: the rules that a version must pass before it becomes champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from headrace.declare.gate import Rule
from headrace.declare.metrics import find_metric

__all__ = ["GateResult", "RuleResult", "judge"]


class RuleResult(Struct, frozen=True):
    """The result of a rule.

    Attributes:
        rule: the rule, as a sentence.
        metric: the name of the metric that the rule checks.
        value: the version's value of the metric.
        bound: the number that the value was compared with; None if it could not be compared.
        passed: whether the version passes the rule.
        note: why the value could not be compared, or empty.
    """

    rule: str
    metric: str
    value: float
    bound: float | None
    passed: bool
    note: str = ""


class GateResult(Struct, frozen=True):
    """The result of the gate: passed if every rule passed. A gate without rules passes every version."""

    passed: bool
    results: tuple[RuleResult, ...]

    @property
    def rules(self) -> list[str]:
        """The rules, in words."""
        return [result.rule for result in self.results]

    @property
    def failed(self) -> tuple[RuleResult, ...]:
        """The rules that did not pass."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each rule whose value could not be compared."""
        return tuple(f"{result.rule}: {result.note}" for result in self.results if result.note)


def judge(
    rules: Sequence[Rule],
    metrics: Mapping[str, float],
    champion: Mapping[str, float] | None,
    *,
    problem: str = "",
    baseline: Mapping[str, float] | None = None,
) -> GateResult:
    """Judges a version by its metrics on the held-out test part.

    Args:
        rules: the model's gate.
        metrics: the version's metrics.
        champion: the champion's metrics on the same rows, or None. Without a champion, a rule that compares
            with it passes.
        problem: why the champion could not be evaluated, or empty.
        baseline: the metrics of the model's baseline on the same rows; needed by a rule that compares with it.

    Raises:
        ProjectError: a rule's metric does not exist.
    """
    results = tuple(_apply(rule, metrics, champion, problem, baseline) for rule in rules)
    return GateResult(all(result.passed for result in results), results)


def _apply(
    rule: Rule,
    metrics: Mapping[str, float],
    champion: Mapping[str, float] | None,
    problem: str,
    baseline: Mapping[str, float] | None,
) -> RuleResult:
    name, metric = rule.metric, find_metric(rule.metric)
    value = metrics[name]
    if rule.kind == "better_than_baseline":
        assert baseline is not None, "a model with this rule declares a baseline"
        share = f"at least {rule.bound:.0%} " if rule.bound else ""
        text = f"{name} {share}better than the baseline's"
        margin = rule.bound * abs(baseline[name])
        bound = baseline[name] + margin if metric.more_is_better else baseline[name] - margin
        passed = value >= bound if metric.more_is_better else value <= bound
        return RuleResult(text, name, value, bound, passed and value != baseline[name])
    if rule.kind == "not_worse_than_champion":
        tolerance = f" by more than {rule.bound:g}" if rule.bound else ""
        text = f"{name} not worse than the champion's{tolerance}"
        if champion is None:
            passed = not problem or rule.unknown == "pass"
            note = f"not compared: {problem or 'no champion yet'}"
            return RuleResult(text, name, value, None, passed, note)
        more = metric.more_is_better
        bound = champion[name] - rule.bound if more else champion[name] + rule.bound
        return RuleResult(text, name, value, bound, value >= bound if more else value <= bound)
    at_least = rule.kind == "at_least"
    text = f"{name} at {'least' if at_least else 'most'} {rule.bound:g}"
    passed = value >= rule.bound if at_least else value <= rule.bound
    return RuleResult(text, name, value, rule.bound, passed)
