"""Parity: compares served features with the same features recomputed offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from headrace.features.checks.recompute import ServedPrediction, recompute, views_of_edited_code
from headrace.features.plan import FeaturePlan
from headrace.lake import Lake
from headrace.projects.project import Project

__all__ = ["Difference", "ParityReport", "check_parity", "comparable"]


_EXAMPLES = 1_000  # differing values that a report has


class Difference(Struct, frozen=True):
    """A served value that differs from the value that training would have computed."""

    id: str
    column: str
    served: float | str | None
    recomputed: float | str | None


class ParityReport(Struct, frozen=True):
    """The result of a parity check.

    Attributes:
        checked: how many predictions could be recomputed completely.
        equal: how many of these have only equal values, to the bit.
        differing: the values that differ, the first 1,000 of them.
        not_checkable: why predictions could not be recomputed → how many.
        code_changed: how many predictions could be recomputed only in part, because a rowwise function was
            edited since their version was trained. Their other values were compared.
        values_differing: how many values differ.
    """

    checked: int
    equal: int
    differing: list[Difference]
    not_checkable: dict[str, int]
    code_changed: int = 0
    values_differing: int = 0

    def join(self, other: ParityReport) -> ParityReport:
        """The report of the predictions of both."""
        return ParityReport(
            self.checked + other.checked,
            self.equal + other.equal,
            [*self.differing, *other.differing][:_EXAMPLES],
            dict(Counter(self.not_checkable) + Counter(other.not_checkable)),
            self.code_changed + other.code_changed,
            self.values_differing + other.values_differing,
        )


def check_parity(
    project: Project, lake: Lake, plan: FeaturePlan, served: Iterable[ServedPrediction]
) -> ParityReport:
    """Recomputes the features of predictions from the lake, and compares them with the served ones.

    Args:
        project: the project that declares the topics and rowwise tables of the plan's views.
        lake: the lake with the topics' tables, and the snapshots that as-of values came from.
        plan: the plan that was served.
        served: the predictions.
    """
    predictions = list(served)
    edited = views_of_edited_code(project, plan)
    reasons: Counter[str] = Counter()
    differing: list[Difference] = []
    for prediction, recomputed in zip(
        predictions, recompute(project, lake, plan, predictions, skip=edited), strict=True
    ):
        if recomputed.failures:
            view, reason = next(iter(recomputed.failures.items()))
            reasons[reason if view in reason else f"{view}: {reason}"] += 1
            continue
        for column, value in recomputed.seen.items():
            served_value = comparable(prediction.values.get(column))
            if served_value != value:
                differing.append(Difference(prediction.id, column, served_value, value))
    count = len(predictions) - reasons.total()
    if edited:
        return ParityReport(0, 0, differing[:_EXAMPLES], dict(reasons), count, len(differing))
    equal = count - len({difference.id for difference in differing})
    return ParityReport(count, equal, differing[:_EXAMPLES], dict(reasons), values_differing=len(differing))


def comparable(value: Any) -> Any:
    """The value, but None for NaN, because both mean missing."""
    return None if value != value else value
