"""One run of the suite: a schedule of faults from a seed, then the audit."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tests.faults.kinds import KINDS
from tests.faults.run import FaultRun

__all__ = ["Outcome", "run_schedule"]

# The counts of the audit that must be 0.
VIOLATIONS = (
    "lost",
    "duplicated",
    "unknown",
    "good lost",
    "good duplicated",
    "broken admitted as good",
    "other content",
    "digits lost",
    "replays admitted twice",
    "sink lost",
    "sink duplicated",
    "sink unknown",
    "online wrong",
    "online broken",
    "properties lost",
)


@dataclass
class Outcome:
    """The faults of a run, and the counts of its audit.

    Attributes:
        name: the log and the catalog.
        seed: the seed of the schedule.
        injected: kind of fault → how often it was injected, without poison.
        poison: kind of poison → how often it was appended.
        seconds_by_kind: kind → seconds of all its faults together.
        counts: the result of the audit.
        seconds: how long the run took.
    """

    name: str
    seed: int
    injected: Counter[str] = field(default_factory=Counter)
    poison: Counter[str] = field(default_factory=Counter)
    seconds_by_kind: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        """The number of faults, without poison."""
        return sum(self.injected.values())

    @property
    def violations(self) -> dict[str, int]:
        """The violations of exactly-once, with their counts."""
        return {what: self.counts[what] for what in VIOLATIONS if self.counts[what]}

    def __str__(self) -> str:
        lines = [f"exactly once: {self.name} (seed {self.seed}, {self.seconds:.0f} s)"]
        lines += [
            f"  {kind:<44}{count:>6}{self.seconds_by_kind[kind]:>7.1f} s"
            for kind, count in sorted(self.injected.items())
        ]
        lines += [f"  {'poison: ' + kind:<44}{count:>6}" for kind, count in sorted(self.poison.items())]
        shown = ("acknowledged", "unacknowledged", "good", "replayed", "lost", "duplicated")
        numbers = ", ".join(f"{what} {self.counts[what]:,}" for what in shown)
        refused = ", ".join(f"{code} {n:,}" for code, n in sorted(self.counts["refused"].items()))
        lines.append(
            f"  {self.faults} faults and {sum(self.poison.values())} poison messages; events: {numbers}"
        )
        lines.append(f"  refused: {refused}")
        return "\n".join(lines)


def run_schedule(run: FaultRun, name: str, seed: int, wanted: Mapping[str, int]) -> Outcome:
    """Runs a schedule of these faults (kind → how often), then audits. The contract is fixed halfway."""
    begun = monotonic()
    schedule = [kind for kind, count in wanted.items() for _ in range(count)]
    random.Random(seed).shuffle(schedule)
    run.write_code()
    run.fill_roles()
    run.await_commit("before the first fault")
    run.build()
    seconds_by_kind: dict[str, float] = defaultdict(float)
    for n, kind in enumerate(schedule):
        run.fixed = n >= len(schedule) // 2
        since = monotonic()
        try:
            KINDS[kind](run)
        except AssertionError as error:
            error.add_note(f"fault {n + 1} of {len(schedule)} with seed {seed}: {kind}")
            raise
        if not kind.startswith("poison"):
            run.injected[kind] += 1
        seconds_by_kind[kind] += monotonic() - since
    counts = finish(run)
    return Outcome(name, seed, run.injected, run.poison, seconds_by_kind, counts, monotonic() - begun)


def finish(run: FaultRun) -> dict[str, Any]:
    """Ends all work in order, replays the refused events, and audits."""
    run.fill_roles()
    for producer in run.in_role("produce"):
        run.order_end(producer)
    run.until(lambda: not run.in_role("produce"), "the producers to end", feed=False)
    to_end = ("work", {"fixed": True, "until_end": True})
    for role, arguments in (to_end, ("replay", {}), ("replay", {}), to_end):
        child = run.fork(role, **arguments)
        run.until(lambda child=child: child.ended is not None, f"the last {role}", feed=False)  # type: ignore[misc]
        for worker in run.in_role("work"):
            run.end(worker)
    counter = run.fork("count", edited=run.edited)
    run.until(lambda: counter.ended is not None, "the audit", feed=False)
    counts = next(report for report in reversed(run.reports) if report["what"] == "audited")
    properties: dict[str, str] = {}
    for report in run.reports:
        if report["what"] == "interfered":
            properties |= report["properties"]
    counts["properties lost"] = sum(
        counts["properties"].get(name) != value for name, value in properties.items()
    )
    return counts
