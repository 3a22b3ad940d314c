"""How the commands show a canary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.cli import show

if TYPE_CHECKING:
    from headrace.flows.models.canary import CanaryReview

__all__ = ["describe_canary", "show_steps"]


def describe_canary(reviewed: CanaryReview) -> str:
    """One sentence about the canary and what is done with it."""
    plan, decision = reviewed.release.canary, reviewed.decision
    assert plan is not None  # only canaries are reviewed
    return (
        f"Version {plan.version} beside {plan.champion}, step {plan.step + 1} of {len(plan.steps)}"
        f" ({plan.share:.4g} of the traffic): {decision.action}, because {decision.why}"
    )


def show_steps(reviewed: CanaryReview) -> None:
    """Prints how each arm did in each step."""
    rows = [
        (
            f"{step.share:.4g}",
            name,
            arm.requests,
            None if arm.failed is None else f"{arm.failed:.3%}",
            *(None if value is None else f"{value:.3g} ms" for value in (arm.p50_ms, arm.p99_ms)),
            arm.outcomes,
            None if arm.mean_score is None else f"{arm.mean_score:.4g}",
        )
        for step in reviewed.steps
        for name, arm in (("champion", step.champion), ("canary", step.canary))
    ]
    if rows:
        columns = ["share", "arm", "requests", "failed", "p50", "p99", "outcomes", "mean outcome"]
        show.table("Steps", columns, rows)
