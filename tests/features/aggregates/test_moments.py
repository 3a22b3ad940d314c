from fractions import Fraction

import numpy as np
import pytest
from tests.features.window_oracle import spread

from headrace.features.aggregates.exact import float_sums, whole_sums
from headrace.features.aggregates.moments import range_deviations, range_variances, square_sums

DRAW = np.random.default_rng(5)
PRICES = DRAW.lognormal(3, 1, 400).round(2)
COLUMNS = {
    "prices": PRICES,
    "runs of equal values": np.repeat(PRICES[:40], 10),
    "large and alike": 1e9 + DRAW.normal(0, 1e-3, 400),
    "of every size": DRAW.lognormal(0, 60, 400) * DRAW.choice([-1, 1], 400),
    "too small for a square": DRAW.choice([0.0, 5e-324, 1e-310, 1e-300], 400),
    "too large for a square": np.where(DRAW.random(400) < 0.05, 1e200, PRICES),
    "as far apart as doubles are": DRAW.choice([-1.7e308, 1.7e308], 400),
    "microseconds": 1_700_000_000_000_000 + DRAW.integers(0, 10**9, 400),
    "any int64": DRAW.integers(-(2**63), 2**63 - 1, 400),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_the_spread_of_ranges_is_the_true_one_rounded_once(column):
    values = COLUMNS[column]
    sums, squares = (float_sums if values.dtype == float else whole_sums)(values), square_sums(values)
    low = DRAW.integers(0, 390, 150)
    high = low + DRAW.integers(0, 10, 150)
    variances = range_variances(sums, squares, low, high).tolist()
    deviations = range_deviations(sums, squares, low, high).tolist()
    for first, end, variance, deviation in zip(low, high, variances, deviations, strict=True):
        if end - first < 2:
            assert (variance, deviation) == (0, 0)
            continue
        inside = [Fraction(value) for value in values[first:end].tolist()]
        assert (variance, deviation) == (spread("var", inside), spread("std", inside))
