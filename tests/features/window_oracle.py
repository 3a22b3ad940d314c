"""Windows by brute force, from the definition alone. It shares no code with the kernel.

The value of an aggregation at t: of the events of the entity with floor(t - W, hop) <= time < t, the function.
With an offset these are the events with floor(t - offset - W, hop) <= time < floor(t - offset, hop); over a
lifetime those with time < t. Only values that count are taken: not null, a finite number. Equal times are
ordered by value. A sum of floats is the true sum, rounded once, an infinity beyond the range of a double; a sum
of whole numbers wraps around as int64. A mean is the true sum, rounded to a double, over the count; where that
is an infinity, the true mean, rounded once. A variance is the true sum of squared deviations from the true
mean, over n - 1, rounded once; a standard deviation is its root, and that of the true variance where no normal
double holds it. The most frequent values are in order of frequency, then of size. A percentile is the value of
the nearest rank, moved to the middle of its 64th of a power of two. An approximate count of distinct values is
Ertl's estimate from the registers of a HyperLogLog of 12 bits.
"""

import struct
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from hashlib import sha256
from math import ceil, frexp, inf, isfinite, log, sqrt


def expect_value(function, n, window, hop, t, events, offset=0):
    """`events`: (time, value) pairs of one entity; all times in microseconds; window None is a lifetime."""
    end = t - offset
    begin = -inf if window is None else end - window - (end - window) % hop
    if offset:
        end = end - end % hop
    inside = [(time, value) for time, value in events if begin <= time < end and value is not None]
    inside = [(time, value) for time, value in inside if not isinstance(value, float) or isfinite(value)]
    inside.sort()
    values = [value for _, value in inside]
    if function == "count":
        return len(values)
    if function == "count_if":
        return sum(value is True for value in values)
    if function == "count_distinct":
        return len({0.0 if value == 0 and isinstance(value, float) else value for value in values})
    if function == "approx_count_distinct":
        return estimate_distinct(values)
    if not values:
        return None
    if function == "top_k":
        counts = Counter(values)
        return sorted(counts, key=lambda value: (-counts[value], value))[:n]
    if function == "percentile":
        return middle_of_bucket(sorted(map(float, values))[ceil(Fraction(n, 100) * len(values)) - 1])
    if function in ("sum", "mean"):
        exact = sum((Fraction(value) for value in values), Fraction(0))
        if function == "sum" and not isinstance(values[0], float):
            return (int(exact) + 2**63) % 2**64 - 2**63
        total = round_to_double(exact)
        if function == "sum":
            return total
        return total / len(values) if isfinite(total) else round_to_double(exact / len(values))
    if function in ("var", "std"):
        return spread(function, [Fraction(value) for value in values]) if len(values) > 1 else None
    if function == "min":
        return min(values)
    if function == "max":
        return max(values)
    if function == "first":
        return values[0]
    if function == "first_n":
        return values[:n]
    if function == "last":
        return values[-1]
    if function == "last_n":
        return values[-n:]
    raise AssertionError(function)


def round_to_double(exact):
    """The double nearest to a Fraction, as IEEE 754 has it."""
    try:
        return float(exact)
    except OverflowError:
        return inf if exact > 0 else -inf


def spread(function, values):
    mean = sum(values, Fraction(0)) / len(values)
    true = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    variance = round_to_double(true)
    if function == "var":
        return variance
    if isfinite(variance) and variance >= 2.0**-1022:
        return sqrt(variance)
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -9999, 9999
        root = (Decimal(true.numerator) / Decimal(true.denominator)).sqrt()
        return float(root)  # an infinity beyond the range of a double


def middle_of_bucket(value):
    if value == 0:
        return 0.0
    exponent = frexp(abs(value))[1]  # the value is in [2^(exponent - 1), 2^exponent)
    if exponent <= -1022:  # below the normal doubles the buckets have the width of the smallest ones
        unit = Fraction(2) ** (-1022 - 6)
    else:
        unit = Fraction(2) ** (exponent - 1 - 6)
    bucket = Fraction(abs(value)) // unit
    middle = float((bucket + Fraction(1, 2)) * unit)
    return middle if value > 0 else -middle


def estimate_distinct(values):
    """Ertl's estimator (2017, algorithm 6), with ranks up to 40."""
    registers = [0] * 4096
    for value in values:
        if isinstance(value, str):
            code = int.from_bytes(sha256(value.encode()).digest()[:8], "big")
        elif isinstance(value, datetime):
            code = splitmix((value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) % 2**64)
        elif isinstance(value, float):
            code = splitmix(struct.unpack("<Q", struct.pack("<d", value + 0.0))[0])
        else:
            code = splitmix(int(value) % 2**64)
        bits = f"{code:064b}"
        rank = len(bits[12:]) - len(bits[12:].lstrip("0")) + 1
        register = int(bits[:12], 2)
        registers[register] = max(registers[register], min(rank, 40))
    counts = Counter(registers)
    if counts[0] == 4096:
        return 0
    share, power, sigma = counts[0] / 4096, 1.0, counts[0] / 4096
    while share:
        share *= share
        sigma += share * power
        power *= 2
    total = sum(count * 2.0**-rank for rank, count in counts.items() if rank)
    return round(4096**2 / (2 * log(2)) / (4096 * sigma + total))


def splitmix(state):
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)
