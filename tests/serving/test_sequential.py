"""The sequential tests: their e-values from the definition, and how often they are wrong or too late."""

import math
from pathlib import Path

import numpy as np
import pytest
from tests.serving.canary_power import (
    REGRESSIONS,
    SHARES,
    SLOWER,
    count_until_slow,
    fixed_sample,
    measure_power,
    simulate,
    write_latency_table,
    write_tables,
)

from headrace.serving.canary import ALPHA
from headrace.serving.sequential import ODDS_RATIOS, Blocks, block_sizes, evidence, make_blocks


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


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.33, 0.4, 0.45, 0.49, 0.5, 0.51, 0.6, 0.7, 0.9, 0.99])
def test_a_block_has_the_proportion_of_the_traffic(share):
    champion, canary = block_sizes(share)
    assert abs(canary / champion / (share / (1 - share)) - 1) <= 0.021
    assert min(champion, canary) <= 25


def count_false_alarms(rate, share, sample, repeats):
    """How often an equal version is rolled back by one metric at the level of all three."""
    rng = np.random.default_rng(5)
    return sum(
        evidence(simulate(rng, rate, rate, share, 3 * sample)).max() >= 1 / ALPHA for _ in range(repeats)
    )


@pytest.mark.parametrize("share", [0.25, 0.9])
@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression_is_seen_within_3_times_the_fixed_sample(name, share):
    champion, canary = REGRESSIONS[name]
    assert np.mean(measure_power(champion, canary, share, 25) <= 3) >= 0.95
    assert count_false_alarms(champion, share, fixed_sample(champion, canary, share), 25) <= 2


@pytest.mark.parametrize(("name", "most"), [("every answer 1.5 times", 300), ("equal", math.inf)])
def test_a_slower_version_is_seen_by_the_whole_rule(name, most):
    counts = count_until_slow(*SLOWER[name], 0.25, 20, longest=2_000)
    assert np.sum(counts <= most) >= 19
    assert np.isfinite(counts).all() == (name != "equal")


@pytest.mark.soak
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression_is_seen_at_every_share_in_2_000_simulations(name, share):
    champion, canary = REGRESSIONS[name]
    assert np.mean(measure_power(champion, canary, share, 2_000) <= 3) >= 0.95
    sample = fixed_sample(champion, canary, share)
    assert count_false_alarms(champion, share, sample, 2_000) <= 2_000 * ALPHA


@pytest.mark.soak
def test_the_guide_has_the_tables_of_the_simulations():
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "canary.md").read_text()
    assert write_tables(400) in guide
    assert write_latency_table(200) in guide
