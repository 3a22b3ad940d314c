"""The sequential tests: their e-values from the definition, and how often they are wrong or too late."""

import math

import numpy as np
import pytest

from headrace.serving.canary import ALPHA, LIMIT
from headrace.serving.sequential import ODDS_RATIOS, Blocks, block_sizes, evidence, make_blocks


def normal_quantile(probability):
    """By bisection of the distribution function, which math has as erfc."""
    low, high = -10.0, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(-middle / math.sqrt(2)) / 2 < probability else (low, middle)
    return low


def fixed_sample(champion, canary, share, alpha, power=0.95):
    """The canary's observations in a one-sided test of two proportions of a size fixed in advance."""
    quantiles = normal_quantile(1 - alpha) + normal_quantile(power)
    variance = champion * (1 - champion) * share / (1 - share) + canary * (1 - canary)
    return quantiles**2 * variance / (champion - canary) ** 2


def simulate(rng, champion, canary, share, count):
    """Blocks with about `count` observations of the canary."""
    sizes = block_sizes(share)
    blocks = -(-int(count) // sizes[1])
    return Blocks(
        np.full(blocks, sizes[0]),
        np.full(blocks, sizes[1]),
        rng.binomial(sizes[0], champion, blocks),
        rng.binomial(sizes[1], canary, blocks),
    )


def test_evidence_is_the_product_of_the_likelihood_ratios_of_its_definition():
    rng = np.random.default_rng(1)
    champion, canary = (rng.random((12, size)) < 0.3 for size in (3, 1))
    blocks = make_blocks([(0.25, champion.ravel(), canary.ravel())])
    products, bad, count, expected = dict.fromkeys(ODDS_RATIOS, 1.0), 0.5, 10.0, []
    for index in range(12):
        mean = bad / count
        for ratio in ODDS_RATIOS:
            low, high = 0.0, mean  # the champion's guess, by bisection: the mean of both guesses is `mean`
            for _ in range(200):
                guess = (low + high) / 2
                other = ratio * guess / (1 + (ratio - 1) * guess)
                low, high = (guess, high) if (3 * guess + other) / 4 < mean else (low, guess)
            for arm, share in ((champion, guess), (canary, other)):
                for is_bad in arm[index]:
                    products[ratio] *= share / mean if is_bad else (1 - share) / (1 - mean)
        expected.append(sum(products.values()) / len(products))
        bad += champion[index].sum() + canary[index].sum()
        count += 4
    np.testing.assert_allclose(evidence(blocks), expected, rtol=1e-9)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("rate", [0.0, 0.001, 0.3, 0.95, 1.0])
def test_the_mean_of_a_blocks_e_value_is_at_most_1_without_a_difference(rate, share):
    champion, canary = block_sizes(share)
    for history in (0.0, 0.3, 1.0):  # the share of bad observations in the block before
        first = Blocks(
            *(np.array([n]) for n in (champion, canary, round(champion * history), round(canary * history)))
        )
        before = evidence(first)[0]
        mean = 0.0
        for bad, other in np.ndindex(champion + 1, canary + 1):
            weight = math.comb(champion, bad) * rate**bad * (1 - rate) ** (champion - bad)
            weight *= math.comb(canary, other) * rate**other * (1 - rate) ** (canary - other)
            columns = (first.champion_size, first.canary_size, first.champion_bad, first.canary_bad)
            both = Blocks(
                *(
                    np.append(column, n)
                    for column, n in zip(columns, (champion, canary, bad, other), strict=True)
                )
            )
            mean += weight * evidence(both)[1]
        assert mean <= before * (1 + 1e-9)


def test_blocks_hold_observations_in_their_order_and_leave_the_rest():
    blocks = make_blocks([(0.25, [True, False, False, True, True, True, False], [False, True, True])])
    assert blocks.champion_bad.tolist() == [1, 3]
    assert blocks.canary_bad.tolist() == [0, 1]
    assert (blocks.champion_size.tolist(), blocks.canary_size.tolist()) == ([3, 3], [1, 1])
    assert len(make_blocks([])) == len(evidence(make_blocks([]))) == 0
    assert (block_sizes(0.01), block_sizes(0.5), block_sizes(0.8)) == ((99, 1), (1, 1), (1, 4))


REGRESSIONS = {
    "conversion 5.0 % to 4.0 %": (0.95, 0.96),
    "errors 0.1 % to 1 %": (0.001, 0.01),
    "over the p99, 1 % to 3 %": (0.01, 0.03),
}


def power_and_errors(champion, canary, share, repeats, limit):
    """How often a regression is seen within 3 times the fixed sample, and an equal version is refused."""
    rng = np.random.default_rng(4)
    count = 3 * fixed_sample(champion, canary, share, ALPHA / 3)
    seen = sum(evidence(simulate(rng, champion, canary, share, count)).max() >= LIMIT for _ in range(repeats))
    wrong = sum(
        evidence(simulate(rng, champion, champion, share, count)).max() >= limit for _ in range(repeats)
    )
    return seen / repeats, wrong / repeats


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression_is_seen_within_3_times_the_fixed_sample(name):
    seen, wrong = power_and_errors(*REGRESSIONS[name], 0.25, 25, LIMIT)
    assert (seen >= 0.95, wrong <= ALPHA) == (True, True), (seen, wrong)


@pytest.mark.soak
@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5])
@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression_is_seen_at_every_share_in_2_000_simulations(name, share):
    seen, wrong = power_and_errors(*REGRESSIONS[name], share, 2_000, 1 / ALPHA)
    assert (seen >= 0.95, wrong <= ALPHA) == (True, True), (seen, wrong)
