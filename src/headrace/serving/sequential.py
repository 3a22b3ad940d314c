"""Sequential tests of whether one version is worse than another: valid however often one looks at them.

Each compares the share of bad observations (errors, slow answers, predictions without success) of two arms. The
observations are put into blocks of fixed size, and a block's e-value is the likelihood ratio of Turner, Ly and
Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional stopping" (Journal of
Statistical Planning and Inference 230, 2024; arXiv 2106.02693). With a_i bad ones of arm i's n_i observations,
and guesses p_i that are made from earlier blocks alone,

    E = Π_i p_i^a_i (1 - p_i)^(n_i - a_i) / (q^a_i (1 - q)^(n_i - a_i)),    q = Σ n_i p_i / Σ n_i.

If both arms have the same share of bad observations, whatever it is, the mean of E is at most 1. So the product
of the blocks' e-values is a nonnegative supermartingale, and by Ville's inequality it ever reaches 1/α with a
probability of at most α.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ODDS_RATIOS", "Blocks", "block_sizes", "evidence", "make_blocks"]

ODDS_RATIOS = (1.1, 1.25, 1.6, 2.5, 5.0, 10.0)
"""How much worse a version may be: the ratio of the odds of a bad observation. The evidence is the mean over
them, which is such a supermartingale, too."""
_DEVIATION = 0.02  # of the sizes of a block from the proportion of the traffic
_LARGEST_SMALL = 25  # observations of the smaller arm in a block, which deviate by 2 % at most
_LARGEST_LOG = 700.0  # of evidence: a float has no exponential of more than 709
_PRIOR_BAD, _PRIOR_COUNT = 0.5, 10.0  # the first guess of the share of bad observations


@frozen
class Blocks:
    """Blocks of observations, in their order.

    Attributes:
        champion_size, canary_size: int64 [blocks]: the number of observations of each arm. It must not
            depend on the observations.
        champion_bad, canary_bad: int64 [blocks]: how many of them are bad.
    """

    champion_size: npt.NDArray[np.int64]
    canary_size: npt.NDArray[np.int64]
    champion_bad: npt.NDArray[np.int64]
    canary_bad: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.champion_size)


def block_sizes(share: float) -> tuple[int, int]:
    """The observations of champion and canary in a block, in the proportion of their traffic to 2 %.

    Args:
        share: the canary's share of the traffic, between 0 and 1.

    What the larger arm answers beyond that proportion fills no block.
    """
    ratio = max(share, 1 - share) / min(share, 1 - share)

    def deviation(small: int) -> float:
        return abs(round(small * ratio) / (small * ratio) - 1)

    small = next((n for n in range(1, _LARGEST_SMALL) if deviation(n) <= _DEVIATION), _LARGEST_SMALL)
    large = round(small * ratio)
    return (large, small) if share < 0.5 else (small, large)


def make_blocks(parts: Sequence[tuple[float, npt.ArrayLike, npt.ArrayLike]]) -> Blocks:
    """Puts observations into blocks. Observations that do not fill a block are left for later.

    Args:
        parts: for each step of the traffic: the canary's share, and whether each observation of the champion
            and of the canary is bad, in their order.
    """
    columns: list[tuple[npt.NDArray[np.int64], ...]] = []
    for share, champion, canary in parts:
        sizes, arms = block_sizes(share), [np.asarray(arm, np.int64) for arm in (champion, canary)]
        count = min(len(arm) // size for arm, size in zip(arms, sizes, strict=True))
        bad = [
            arm[: count * size].reshape(count, size).sum(axis=1) for arm, size in zip(arms, sizes, strict=True)
        ]
        columns.append((np.full(count, sizes[0]), np.full(count, sizes[1]), *bad))
    if not columns:
        return Blocks(*(np.zeros(0, np.int64) for _ in range(4)))
    return Blocks(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def evidence(blocks: Blocks) -> npt.NDArray[np.float64]:
    """The evidence that the canary is worse, after each block: float64 [blocks].

    If the canary is not worse, it ever reaches 1/α with a probability of at most α.
    """
    size = blocks.champion_size + blocks.canary_size
    bad = blocks.champion_bad + blocks.canary_bad
    share = (np.cumsum(bad) - bad + _PRIOR_BAD) / (np.cumsum(size) - size + _PRIOR_COUNT)  # of earlier blocks
    logs = np.stack([_log_values(blocks, share, ratio) for ratio in ODDS_RATIOS])
    log_sums = np.minimum(np.logaddexp.reduce(np.cumsum(logs, axis=1), axis=0), _LARGEST_LOG)
    sums: npt.NDArray[np.float64] = np.exp(log_sums)
    return sums / len(ODDS_RATIOS)


def _log_values(blocks: Blocks, share: npt.NDArray[np.float64], ratio: float) -> npt.NDArray[np.float64]:
    """The logarithm of each block's e-value, if the odds of a bad observation differ by this ratio."""
    champion_size, canary_size = blocks.champion_size, blocks.canary_size
    bad = (champion_size + canary_size) * share
    # champion_size p + canary_size ratio p / (1 + (ratio - 1) p) = bad
    square = champion_size * (ratio - 1)
    linear = champion_size + canary_size * ratio - bad * (ratio - 1)
    champion = (np.sqrt(linear**2 + 4 * square * bad) - linear) / (2 * square)
    canary = ratio * champion / (1 + (ratio - 1) * champion)
    champion_good, canary_good = champion_size - blocks.champion_bad, canary_size - blocks.canary_bad
    result: npt.NDArray[np.float64] = (
        blocks.champion_bad * np.log(champion / share)
        + champion_good * np.log((1 - champion) / (1 - share))
        + blocks.canary_bad * np.log(canary / share)
        + canary_good * np.log((1 - canary) / (1 - share))
    )
    return result
