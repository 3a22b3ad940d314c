"""How soon a canary is rolled back, by simulation: `python -m tests.serving.canary_power` prints the tables of
docs/guide/canary.md.

The unit is the sample of a test whose size is fixed in advance: the canary's requests at which Fisher's exact
test, one-sided, sees the regression with a power of 95 %. It has the level that one metric of a canary has.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom, norm

from headrace.serving import canary as rule
from headrace.serving.canary import ALPHA, LIMIT
from headrace.serving.sequential import Blocks, block_sizes, evidence, make_blocks

__all__ = [
    "REGRESSIONS",
    "SHARES",
    "count_until_slow",
    "fixed_sample",
    "measure_power",
    "simulate",
    "write_latency_table",
    "write_tables",
]

REGRESSIONS = {
    "conversion 5.0 % → 4.0 %": (0.95, 0.96),
    "errors .1 % → 1 %": (0.001, 0.01),
    "answers over the champion's p99, 1 % → 3 %": (0.01, 0.03),
}
"""What becomes worse → the share of bad observations of champion and canary."""
SLOWER = {
    "every answer 1.25 times": (1.25, 1.0),
    "every answer 1.5 times": (1.5, 1.0),
    "the slowest twentieth 1.5 times": (1.0, 1.5),
    "equal": (1.0, 1.0),
}
"""What becomes slower → the factor of every latency, and of those of the slowest twentieth besides."""
SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.99)
_EXACT = 60.0  # expected observations of the rarer kind in an arm, under which counts are no normal variable
_MULTIPLES = (0.5, 1, 1.5, 2, 3)


@cache
def fixed_sample(champion: float, canary: float, share: float) -> float:
    """The canary's requests in a test of a fixed size (see the module), to 2 %."""
    alpha, power = ALPHA / 3, 0.95
    spread = champion * (1 - champion) * share / (1 - share) + canary * (1 - canary)
    normal = float(norm.ppf(1 - alpha) + norm.ppf(power)) ** 2 * spread / (champion - canary) ** 2
    low, high = normal / 4, normal * 40
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        if _power(champion, canary, share, middle, alpha) < power:
            low = middle
        else:
            high = middle
    return high


def _power(champion: float, canary: float, share: float, count: float, alpha: float) -> float:
    """How often Fisher's exact test sees the regression in a sample of this size."""
    rng = np.random.default_rng(1)
    sizes = max(1, round(count * (1 - share) / share)), max(1, round(count))
    bad, other = (rng.binomial(n, share, 5_000) for n, share in zip(sizes, (champion, canary), strict=True))
    rare = min(n * min(share, 1 - share) for n, share in zip(sizes, (champion, canary), strict=True))
    if rare >= _EXACT:
        total, whole = bad + other, sum(sizes)
        mean = total * sizes[0] / whole
        spread = mean * (1 - total / whole) * sizes[1] / (whole - 1)
        return float(np.mean(norm.cdf((bad + 0.5 - mean) / np.sqrt(spread)) <= alpha))
    pairs, counts = np.unique(np.stack([bad, other]), axis=1, return_counts=True)
    p_values = hypergeom.cdf(pairs[0], sum(sizes), pairs.sum(axis=0), sizes[0])
    return float(counts[p_values <= alpha].sum() / counts.sum())


def simulate(rng: np.random.Generator, champion: float, canary: float, share: float, count: float) -> Blocks:
    """Blocks with about `count` observations of the canary."""
    sizes = block_sizes(share)
    blocks = -(-int(count) // sizes[1])
    return Blocks(
        np.full(blocks, sizes[0]),
        np.full(blocks, sizes[1]),
        rng.binomial(sizes[0], champion, blocks),
        rng.binomial(sizes[1], canary, blocks),
    )


def measure_power(champion: float, canary: float, share: float, repeats: int) -> npt.NDArray[np.float64]:
    """How many samples of a fixed size each simulated canary has answered when it is rolled back; infinity if
    it is not within three.

    Args:
        champion, canary: the shares of bad observations.
        share: the canary's share of the traffic.
        repeats: how many canaries are simulated.
    """
    rng = np.random.default_rng(4)
    sample = fixed_sample(champion, canary, share)
    rolled_back = []
    for _ in range(repeats):
        values = evidence(simulate(rng, champion, canary, share, 3 * sample))
        reached = np.flatnonzero(values >= LIMIT)
        rolled_back.append(3 * (reached[0] + 1) / len(values) if len(reached) else math.inf)
    return np.array(rolled_back)


def _draw_latencies(
    rng: np.random.Generator, count: int, factor: float, tail: float
) -> npt.NDArray[np.float64]:
    """Milliseconds of answers, 1 in the median; a twentieth take twice as long."""
    latencies = rng.lognormal(0, 0.3, count) * factor
    latencies[rng.random(count) < 0.05] *= 2 * tail
    return latencies


def count_until_slow(
    factor: float, tail: float, share: float, repeats: int, longest: int = 6_000
) -> npt.NDArray[np.float64]:
    """How many compared answers each simulated canary has given when it is rolled back as slow.

    It is infinity if that is not within `longest`.

    Args:
        factor, tail: see SLOWER.
        share: the canary's share of the traffic.
        repeats: how many canaries are simulated.
        longest: the canary's answers in a simulation.
    """
    rng, counts = np.random.default_rng(5), []
    for _ in range(repeats):
        champion = _draw_latencies(rng, round(longest * (1 - share) / share), 1.0, 1.0)
        canary = (_draw_latencies(rng, longest, factor, tail) - rule._SLACK_MS) / rule._SLACK
        first, ((_, *arms),) = rule._split_calibration([(share, champion, canary)])
        limits = np.quantile(first, rule._QUANTILES)
        blocks = [make_blocks([(share, *(np.asarray(arm) > limit for arm in arms))]) for limit in limits]
        reached = np.flatnonzero(np.mean([evidence(part) for part in blocks], axis=0) >= LIMIT)
        left_out = longest - len(arms[1])
        counts.append(left_out + (reached[0] + 1) * block_sizes(share)[1] if len(reached) else math.inf)
    return np.array(counts)


def write_latency_table(repeats: int, shares: Sequence[float] = (0.05, 0.25, 0.5)) -> str:
    """The table of latencies in Markdown: for each regression and share, the answers until half, and until 95 %
    of the canaries were rolled back."""
    head = " | ".join(f"{share:.0%}".replace("%", " %") for share in shares)
    lines = [f"| slower: share | {head} |", "| --- |" + " --- |" * len(shares)]
    for name, (factor, tail) in SLOWER.items():
        cells = []
        for share in shares:
            counts = count_until_slow(factor, tail, share, repeats)
            ends = [np.quantile(counts, part, method="higher") for part in (0.5, 0.95)]
            few = f"{np.isfinite(counts).sum()} of {repeats} at all"
            cells.append(f"{ends[0]:,.0f}, {ends[1]:,.0f}" if math.isfinite(ends[1]) else few)
        lines.append(f"| {name} | {' | '.join(cells)} |".replace("%", " %"))
    return "\n".join([*lines, ""])


def write_tables(repeats: int, shares: Sequence[float] = SHARES) -> str:
    """The tables in Markdown: for each regression, a row for each share."""
    head = " | ".join(f"{multiple:g} x" for multiple in _MULTIPLES)
    lines = []
    for name, (champion, canary) in REGRESSIONS.items():
        lines += [f"| {name}: share | fixed size | {head} |", "| --- |" + " --- |" * (len(_MULTIPLES) + 1)]
        for share in shares:
            sample = fixed_sample(champion, canary, share)
            rolled_back = measure_power(champion, canary, share, repeats)
            cells = " | ".join(f"{np.mean(rolled_back <= multiple):.0%}" for multiple in _MULTIPLES)
            lines.append(f"| {share:.0%} | {sample:,.0f} | {cells} |".replace("%", " %"))
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(write_tables(400) + "\n" + write_latency_table(200))
