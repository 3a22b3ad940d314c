"""One run of the suite: a schedule of faults from a seed, then the count."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tests.faults.kinds import KINDS
from tests.faults.run import FaultRun

__all__ = ["Figure", "run_schedule"]

# What must be nothing.
WRONG = (
    "lost", "twice", "strange", "good lost", "good twice", "good, but broken", "replays admitted twice",
    "sink lost", "sink twice", "sink strange", "properties lost",
)  # fmt: skip


@dataclass
class Figure:
    """What struck, and what was found after it.

    Attributes:
        name: the log and the catalog.
        seed: what the schedule came from.
        struck: kind → how often; poison is counted apart.
        took: kind → seconds, all its strikes together.
        found: what the audit says.
    """

    name: str
    seed: int
    struck: Counter[str] = field(default_factory=Counter)
    poison: Counter[str] = field(default_factory=Counter)
    took: dict[str, float] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        """How many faults, poison not counted."""
        return sum(self.struck.values())

    @property
    def wrong(self) -> dict[str, int]:
        """What is not as promised."""
        return {what: self.found[what] for what in WRONG if self.found[what]}

    def __str__(self) -> str:
        lines = [f"exactly once: {self.name} (seed {self.seed}, {self.seconds:.0f} s)"]
        lines += [
            f"  {kind:<44}{count:>6}{self.took[kind]:>7.1f} s" for kind, count in sorted(self.struck.items())
        ]
        lines += [f"  {'poison: ' + kind:<44}{count:>6}" for kind, count in sorted(self.poison.items())]
        told = ("acknowledged", "unacknowledged", "good", "replayed", "lost", "twice")
        numbers = ", ".join(f"{what} {self.found[what]:,}" for what in told)
        refused = ", ".join(f"{code} {n:,}" for code, n in sorted(self.found["refused"].items()))
        lines.append(
            f"  {self.faults} faults and {sum(self.poison.values())} poison messages; events: {numbers}"
        )
        lines.append(f"  refused: {refused}")
        return "\n".join(lines)


def run_schedule(run: FaultRun, name: str, seed: int, wanted: Mapping[str, int]) -> Figure:
    """Runs a schedule of these faults (kind → how often) and counts.

    The contract is mended half way.
    """
    begun = monotonic()
    schedule = [kind for kind, count in wanted.items() for _ in range(count)]
    random.Random(seed).shuffle(schedule)
    run.fill_roles()
    run.await_commit("before the first fault")
    took: dict[str, float] = defaultdict(float)
    for n, kind in enumerate(schedule):
        run.fixed = n >= len(schedule) // 2
        since = monotonic()
        try:
            KINDS[kind](run)
        except AssertionError as error:
            error.add_note(f"fault {n + 1} of {len(schedule)} with seed {seed}: {kind}")
            raise
        if not kind.startswith("poison"):
            run.struck[kind] += 1
        took[kind] += monotonic() - since
    found = finish(run)
    return Figure(name, seed, run.struck, run.poison, took, found, monotonic() - begun)


def finish(run: FaultRun) -> dict[str, Any]:
    """Ends all work well, replays what waits, and counts."""
    run.fill_roles()
    for producer in run.in_role("produce"):
        run.order_end(producer)
    run.until(lambda: not run.in_role("produce"), "the producers to end", feed=False)
    to_end = ("work", {"fixed": True, "until_end": True})
    for role, given in (to_end, ("replay", {}), ("replay", {}), to_end):
        child = run.fork(role, **given)
        run.until(lambda child=child: child.ended is not None, f"the last {role}", feed=False)  # type: ignore[misc]
        for worker in run.in_role("work"):
            run.end(worker)
    look = run.fork("look")
    run.until(lambda: look.ended is not None, "the count", feed=False)
    found = next(one for one in reversed(run.news) if one["what"] == "audited")
    meddled = {k: v for one in run.news if one["what"] == "meddled" for k, v in one["properties"].items()}
    found["properties lost"] = sum(found["properties"].get(name) != value for name, value in meddled.items())
    return found
