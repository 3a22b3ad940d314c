"""Canaries: the plan of a release in steps, and the decision about its next step from what was observed.

A decision is a function of the plan and of the observations alone: it has no state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from attrs import frozen
from msgspec import Struct

from headrace.kernel.counts import plural
from headrace.serving.sequential import evidence, make_blocks

__all__ = [
    "ALPHA",
    "LIMIT",
    "Better",
    "CanaryPlan",
    "Comparison",
    "Decision",
    "Observations",
    "StepObservations",
    "decide",
]

ALPHA = 0.05
"""The greatest probability that a version that is not worse is ever rolled back."""
_METRICS = ("errors", "latency", "outcomes")
LIMIT = len(_METRICS) / ALPHA
"""The evidence of one metric at which a canary is rolled back: each metric has an equal part of ALPHA."""
_DOUBT = 4.0  # evidence at which a canary does not advance, although it is not rolled back
_CALIBRATION = 500  # the champion's first observations, which say what is slow, or a low outcome
_QUANTILES = (0.5, 0.9, 0.99)  # of the latency: the whole distribution is compared at these

_SLACK, _SLACK_MS = 1.1, 0.05  # how much slower the canary may be: a tenth, and so many milliseconds

Better = Literal["right", "higher", "lower"]
Observed = Sequence[float] | npt.NDArray[np.float64] | npt.NDArray[np.bool_]
_Part = tuple[float, Observed, Observed]  # share, observations of champion and canary
_Rule = tuple[str, Callable[[Any], Any]]  # what a bad observation is, and which are bad


class CanaryPlan(Struct, frozen=True):
    """A canary, as its releases carry it.

    Attributes:
        id: what its releases have in common.
        champion, version: the versions that are compared.
        steps: the canary's share of the traffic in each step, rising.
        step: the index of the step that this release puts in force.
        min_requests: how many requests the canary must have answered before the next step.
        min_outcomes: how many of them must have a known outcome before the next step.
        better: which outcomes are better: those that the prediction got `right`, `higher` or `lower` ones.
        restores: the id of the release before the canary, which a rollback restores.
    """

    id: str
    champion: int
    version: int
    steps: list[float]
    step: int
    min_requests: int
    min_outcomes: int
    better: Better
    restores: str

    @property
    def share(self) -> float:
        """The canary's share of the traffic."""
        return self.steps[self.step]


@frozen
class StepObservations:
    """What was observed of one arm in one step, each in order of time.

    Attributes:
        failed: for each request of another entity, whether the arm failed to answer it.
        latencies: milliseconds of the answer to each request of another entity, of as many instances as are
            usual.
        scores: for each known outcome of another entity, how good it is: True or False, or a number.
        requests: how many requests the arm answered, of any entity and size.
    """

    failed: Observed
    latencies: Observed
    scores: Observed
    requests: int


@frozen
class Observations:
    """What was observed in one step: its share, and both arms."""

    share: float
    champion: StepObservations
    canary: StepObservations


class Comparison(Struct, frozen=True):
    """The two arms in one metric.

    Attributes:
        metric: `errors`, `latency` or `outcomes`.
        what: what a bad observation is.
        champion, canary: how many observations are compared.
        champion_bad, canary_bad: the share of bad ones among them; None without observations.
        evidence: the evidence that the canary is worse: see serving.sequential.
        greatest: the greatest evidence so far.
    """

    metric: str
    what: str
    champion: int
    canary: int
    champion_bad: float | None
    canary_bad: float | None
    evidence: float
    greatest: float


class Decision(Struct, frozen=True):
    """What to do with a canary now, and why.

    Attributes:
        action: `advance` to the next step, `hold` this one, or `roll back`.
        why: one sentence with the numbers.
        comparisons: every metric.
    """

    action: Literal["advance", "hold", "roll back"]
    why: str
    comparisons: list[Comparison]


def decide(plan: CanaryPlan, observations: Sequence[Observations]) -> Decision:
    """Decides about a canary.

    Args:
        plan: the plan with the step in force.
        observations: what was observed in each step so far, in their order.

    At the last step a canary can still be rolled back, by outcomes of earlier steps that become known later.
    """
    observations = [
        step for step in observations if step.share < 1
    ]  # all of the traffic: nothing to compare with
    comparisons = [
        _compare(
            "errors",
            [(step.share, step.champion.failed, step.canary.failed) for step in observations],
            [("failed", np.asarray)],
        ),
        _compare_latencies(observations),
        _compare_outcomes(observations),
    ]
    for comparison in comparisons:
        if comparison.greatest >= LIMIT:
            why = f"{_describe(comparison)}: the evidence reaches {LIMIT:g}"
            return Decision("roll back", why, comparisons)
    if plan.step == len(plan.steps) - 1:
        return Decision("hold", f"the last step, {plan.share:.4g} of the traffic, is in force", comparisons)
    doubtful = [comparison for comparison in comparisons if comparison.evidence >= _DOUBT]
    if doubtful:
        return Decision("hold", f"{_describe(doubtful[0])}: in doubt", comparisons)
    last = observations[-1].canary if observations else StepObservations([], [], [], 0)
    answered, known = last.requests, len(last.scores)
    if answered < plan.min_requests or known < plan.min_outcomes:
        requests = f"{answered:,} of {plural(plan.min_requests, 'request')}"
        why = f"{requests} and {known:,} of {plan.min_outcomes:,} outcomes so far"
        return Decision("hold", why, comparisons)
    worst = max(comparisons, key=lambda comparison: comparison.greatest)
    return Decision(
        "advance",
        f"{plural(answered, 'request')}, and no metric is worse: {_describe(worst)}",
        comparisons,
    )


def _describe(comparison: Comparison) -> str:
    shares = [
        "none" if share is None else f"{share:.3%}"
        for share in (comparison.canary_bad, comparison.champion_bad)
    ]
    return (
        f"{comparison.metric}: {shares[0]} of the canary's {comparison.canary:,} {comparison.what},"
        f" {shares[1]} of the champion's {comparison.champion:,}; evidence {comparison.greatest:.3g}"
    )


def _compare(metric: str, parts: Sequence[_Part], rules: Sequence[_Rule]) -> Comparison:
    """Compares the arms in one metric.

    Args:
        metric: see Comparison.
        parts: the observations.
        rules: which of them are bad. The evidence is the mean of the evidence by each rule, and the numbers are
            those of the rule with the greatest.
    """
    bad = [
        [(share, is_bad(champion), is_bad(canary)) for share, champion, canary in parts] for _, is_bad in rules
    ]
    by_rule = [evidence(make_blocks(rule_parts)) for rule_parts in bad]
    shown = int(np.argmax([values.max(initial=1.0) for values in by_rule]))
    champion, canary = (np.concatenate([np.zeros(0), *(part[arm] for part in bad[shown])]) for arm in (1, 2))
    values = np.mean(by_rule, axis=0)
    return Comparison(
        metric,
        rules[shown][0],
        len(champion),
        len(canary),
        float(champion.mean()) if len(champion) else None,
        float(canary.mean()) if len(canary) else None,
        float(values[-1]) if len(values) else 1.0,
        float(values.max(initial=1.0)),
    )


def _compare_latencies(observations: Sequence[Observations]) -> Comparison:
    """Compares the latencies at several quantiles of the champion's first ones.

    An arm that is asked more rarely finds less in the processor's caches: by as much as that, and by what does
    not matter, the canary may be slower.
    """
    parts = [
        (step.share, step.champion.latencies, (np.asarray(step.canary.latencies) - _SLACK_MS) / _SLACK)
        for step in observations
    ]
    first, rest = _split_calibration(parts)
    if not len(first):
        return _compare("latency", [], [("slow", np.asarray)])
    limits: list[float] = np.quantile(first, _QUANTILES).tolist()
    rules: list[_Rule] = [
        (f"over {limit:.3g} ms (the canary: {limit * _SLACK + _SLACK_MS:.3g} ms)", partial(np.less, limit))
        for limit in limits
    ]
    return _compare("latency", rest, rules)


def _compare_outcomes(observations: Sequence[Observations]) -> Comparison:
    """Outcomes that are good or not are compared by that; others by the median of the champion's first ones.

    More than half of them may be equal to it, as where most customers buy nothing. So there are two rules, of
    which one holds for those that are equal to it.
    """
    parts = [(step.share, step.champion.scores, step.canary.scores) for step in observations]
    if all(np.isin(arm, (0, 1)).all() for _, *arms in parts for arm in arms):
        return _compare("outcomes", parts, [("without success", partial(np.equal, 0))])
    first, rest = _split_calibration(parts)
    if not len(first):
        return _compare("outcomes", [], [("low", np.asarray)])
    median = float(np.median(first))
    rules: list[_Rule] = [
        (f"under {median:.4g}", partial(np.greater, median)),
        (f"not over {median:.4g}", partial(np.greater_equal, median)),
    ]
    return _compare("outcomes", rest, rules)


def _split_calibration(parts: Sequence[_Part]) -> tuple[Sequence[float], list[_Part]]:
    """The champion's first observations, and the observations without them; both empty while there are too few.

    The canary's first observations go, too, as many as its share of them.
    """
    if sum(len(champion) for _, champion, _ in parts) < _CALIBRATION:
        return [], []
    first: list[float] = []
    rest: list[_Part] = []
    for share, champion, canary in parts:
        taken = min(_CALIBRATION - len(first), len(champion))
        first += list(champion[:taken])
        rest.append(
            (share, champion[taken:], canary[round(taken * share / (1 - share)) :] if share < 1 else canary)
        )
    return first, rest
