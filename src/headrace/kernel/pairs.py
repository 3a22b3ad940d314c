"""Names and values on one line, for people."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["format_value", "join_pairs"]


def join_pairs(values: Mapping[str, object]) -> str:
    """The values that there are, such as `card=17  amount=99.5`."""
    return "  ".join(f"{name}={format_value(value)}" for name, value in values.items() if value is not None)


def format_value(value: object) -> str:
    """A value, a float with six significant digits; None is `missing`."""
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
