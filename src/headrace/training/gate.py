"""The gate: the rules that a version must pass before it becomes champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from headrace.declare.gate import Rule
from headrace.training.evaluation import METRICS, known

__all__ = ["RuleResult", "Verdict", "judge"]


class RuleResult(Struct, frozen=True):
    """What one rule said.

    Attributes:
        rule: the rule, as a sentence.
        metric: the metric it looks at.
        value: what the version has.
        bound: what it was compared with; None where there is no champion to compare with.
        passed: whether that is enough.
    """

    rule: str
    metric: str
    value: float
    bound: float | None
    passed: bool


class Verdict(Struct, frozen=True):
    """What the gate said: passed where every rule did. A gate without rules passes all."""

    passed: bool
    results: tuple[RuleResult, ...]

    @property
    def failed(self) -> tuple[RuleResult, ...]:
        """The rules that said no."""
        return tuple(one for one in self.results if not one.passed)


def judge(rules: Sequence[Rule], metrics: Mapping[str, float], champion: Mapping[str, float] | None) -> Verdict:
    """Judges a version by its metrics on the held-out test part.

    Args:
        rules: the model's gate.
        metrics: the version's.
        champion: the champion's on the same rows, or None where there is no champion: a rule that
            compares with it then passes.

    Raises:
        ProjectError: a rule names no metric.
    """
    results = tuple(_result(rule, metrics, champion) for rule in rules)
    return Verdict(all(one.passed for one in results), results)


def _result(rule: Rule, metrics: Mapping[str, float], champion: Mapping[str, float] | None) -> RuleResult:
    name = known(rule.metric)
    value = metrics[name]
    if rule.kind == "not_worse_than_champion":
        tolerance = f" by more than {rule.bound:g}" if rule.bound else ""
        text = f"{name} not worse than the champion's{tolerance}"
        if champion is None:
            return RuleResult(text, name, value, None, True)
        more = METRICS[name]
        bound = champion[name] - rule.bound if more else champion[name] + rule.bound
        return RuleResult(text, name, value, bound, value >= bound if more else value <= bound)
    at_least = rule.kind == "at_least"
    text = f"{name} at {'least' if at_least else 'most'} {rule.bound:g}"
    passed = value >= rule.bound if at_least else value <= rule.bound
    return RuleResult(text, name, value, rule.bound, passed)
