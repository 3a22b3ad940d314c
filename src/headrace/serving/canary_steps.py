"""Summaries of a canary's steps: each arm's requests, failures, latencies and outcomes, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from headrace.serving.canary import Observations, StepObservations

__all__ = ["ArmSummary", "StepSummary", "summarize"]


class ArmSummary(Struct, frozen=True):
    """One arm in one step. A number is None without observations.

    Attributes:
        requests: how many requests it answered; the instances of one request count once.
        entities: how many entities asked it; of each, the first request counts for failures and outcomes.
        failed: the share of the entities whose first request failed.
        p50_ms, p99_ms: the median and the 99 % quantile of the latencies that are compared.
        outcomes: how many outcomes are known.
        mean_score: the mean of how good they are, by the canary's `better`.
    """

    requests: int
    entities: int
    failed: float | None
    p50_ms: float | None
    p99_ms: float | None
    outcomes: int
    mean_score: float | None


class StepSummary(Struct, frozen=True):
    """One step of a canary.

    Attributes:
        share: the canary's share of the traffic.
        champion, canary: its arms.
    """

    share: float
    champion: ArmSummary
    canary: ArmSummary


def summarize(steps: Sequence[Observations]) -> list[StepSummary]:
    """The summary of each step."""
    return [
        StepSummary(step.share, _summarize_arm(step.champion), _summarize_arm(step.canary)) for step in steps
    ]


def _summarize_arm(arm: StepObservations) -> ArmSummary:
    p50, p99 = np.quantile(arm.latencies, (0.5, 0.99)).tolist() if len(arm.latencies) else (None, None)
    return ArmSummary(
        requests=arm.requests,
        entities=len(arm.failed),
        failed=float(np.mean(arm.failed)) if len(arm.failed) else None,
        p50_ms=p50,
        p99_ms=p99,
        outcomes=len(arm.scores),
        mean_score=float(np.mean(arm.scores)) if len(arm.scores) else None,
    )
