"""Windows by brute force, from the definition alone. It shares no code with the kernel.

The value of an aggregation at t: of the events of the entity with floor(t - W, hop) <= time < t, the function.
With an offset these are the events with floor(t - offset - W, hop) <= time < floor(t - offset, hop); over a
lifetime those with time < t. Only values that count are taken: not null, a finite number. Equal times are
ordered by value. A sum of floats is the true sum, rounded once, an infinity beyond the range of a double; a sum
of whole numbers wraps around as int64. A mean is the true sum, rounded to a double, over the count; where that
is an infinity, the true mean, rounded once. A variance is the true sum of squared deviations from the true
mean, over n - 1, rounded once; a standard deviation is its root, and that of the true variance where no normal
double holds it.
"""

from decimal import Decimal, localcontext
from fractions import Fraction
from math import inf, isfinite, sqrt


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
    if not values:
        return None
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
